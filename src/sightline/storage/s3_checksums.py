"""Whether the bytes of an answer are those that were stored, by what the server says of them."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping

from sightline.storage.http_get import Answer
from sightline.storage.retries import PassingError

_SUMS: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda content: zlib.crc32(content).to_bytes(4, "big"),
    "x-amz-checksum-sha256": lambda content: hashlib.sha256(content).digest(),
    "x-amz-checksum-sha1": lambda content: hashlib.sha1(content, usedforsecurity=False).digest(),
}
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_ENCRYPTED = (
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
)


def check_sum(headers: Mapping[str, str], content: bytes) -> bool:
    """Compare a whole object with a sum that was stored with it; say whether there was one.

    Raises:
        PassingError: If they differ.
    """
    # A sum of an object in parts carries a dash; only that of the whole bytes can be compared.
    if "COMPOSITE" in headers.get("x-amz-checksum-type", ""):
        return False
    for name, sum_of in _SUMS.items():
        stored = headers.get(name, "")
        if stored and "-" not in stored:
            if base64.b64encode(sum_of(content)).decode() != stored:
                raise _wrong_bytes()
            return True
    return False


class WholeObjects:
    """Compares whole objects with the sum that is stored with them, or else with their ETag.

    An ETag tells something where it is the MD5. AWS gives that of what was stored in one piece and
    not encrypted with a key of its own, and so do most servers, but none must say so. So a bucket
    whose objects were found to have it is held to it. Before that, an object that differs is read
    again: bytes that come twice alike are those that are stored, and its bucket is no longer looked
    at.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """

    def __init__(self) -> None:
        self._are_md5: dict[str, bool] = {}
        self._differed: dict[tuple[str, str], str] = {}

    def check(self, bucket: str, key: str, answer: Answer) -> None:
        """Look at the answer that holds an object whole.

        Raises:
            PassingError: If the bytes are not those that were stored, or may not be.
        """
        if check_sum(answer.headers, answer.content):
            return
        told = _MD5.fullmatch(answer.headers.get("etag", ""))
        if not told or any(name in answer.headers for name in _ENCRYPTED):
            return
        if self._are_md5.get(bucket) is False:
            return
        found = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        if found == told[1]:
            self._are_md5[bucket] = True
            self._differed.pop((bucket, key), None)
            return
        if bucket not in self._are_md5 and self._differed.get((bucket, key)) == found:
            self._are_md5[bucket] = False
            self._differed.clear()
            return
        self._differed[bucket, key] = found
        raise _wrong_bytes()


def _wrong_bytes() -> PassingError:
    return PassingError("the bytes do not match their checksum", kind="wrong bytes")
