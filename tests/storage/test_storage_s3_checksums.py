"""Wrong bytes of the right length are noticed, whatever the server says of an object."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from fault_proxy import WRONG_BYTES

from sightline.storage.http_get import Answer
from sightline.storage.retries import PassingError
from sightline.storage.s3_checksums import WholeObjects, check_sum

CONTENT = bytes(range(256)) * 80
OTHER = CONTENT[:-1] + b"?"
SUMS = {
    "x-amz-checksum-crc32": zlib.crc32(CONTENT).to_bytes(4, "big"),
    "x-amz-checksum-sha1": hashlib.sha1(CONTENT).digest(),
    "x-amz-checksum-sha256": hashlib.sha256(CONTENT).digest(),
}


def answer(content, etag):
    return Answer(200, {"etag": etag}, content)


def md5(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


@pytest.mark.parametrize("name", SUMS)
def test_sum_that_was_stored_is_compared(name):
    headers = {name: base64.b64encode(SUMS[name]).decode()}
    assert check_sum(headers, CONTENT)
    with pytest.raises(PassingError, match="do not match"):
        check_sum(headers, OTHER)


def test_sums_of_parts_and_unknown_ones_say_nothing():
    assert not check_sum({"x-amz-checksum-crc64nvme": "6Qa5CioXWcY="}, CONTENT)
    assert not check_sum({"x-amz-checksum-crc32": "AAAAAA==-2"}, CONTENT)
    composite = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-type": "COMPOSITE"}
    assert not check_sum(composite, CONTENT)


def test_bucket_whose_etags_are_md5_is_held_to_it():
    whole = WholeObjects()
    whole.check("b", "one", answer(CONTENT, md5(CONTENT)))
    for _ in range(3):
        with pytest.raises(PassingError, match="do not match"):
            whole.check("b", "two", answer(OTHER, md5(CONTENT)))


def test_first_object_that_differs_is_read_again():
    whole = WholeObjects()
    with pytest.raises(PassingError):
        whole.check("b", "one", answer(OTHER, md5(CONTENT)))
    whole.check("b", "one", answer(CONTENT, md5(CONTENT)))
    with pytest.raises(PassingError):
        whole.check("b", "two", answer(OTHER, md5(CONTENT)))


def test_etag_that_is_no_md5_is_believed_once_the_bytes_came_twice():
    whole = WholeObjects()
    with pytest.raises(PassingError):
        whole.check("b", "one", answer(CONTENT, md5(b"what it was before it was encrypted")))
    whole.check("b", "one", answer(CONTENT, md5(b"what it was before it was encrypted")))
    whole.check("b", "two", answer(CONTENT, md5(b"another")))
    with pytest.raises(PassingError):  # each bucket has a mind of its own
        whole.check("c", "one", answer(CONTENT, md5(b"another")))


def test_etags_of_parts_and_of_keys_of_the_user_s_own_are_no_md5():
    whole = WholeObjects()
    whole.check("b", "one", answer(CONTENT, f'"{"0" * 32}-2"'))
    encrypted = {"etag": md5(b""), "x-amz-server-side-encryption-aws-kms-key-id": "arn"}
    whole.check("b", "one", Answer(200, encrypted, CONTENT))


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_object_of_another_program_without_a_sum_is_checked(open_faulty, faults, checksums):
    storage = open_faulty(s3_checksums=checksums)
    storage.write_bytes("image", CONTENT)
    # As an older program stored it, or with a sum that we do not know.
    faults.drop_headers = frozenset(SUMS)
    faults.fail(WRONG_BYTES, first=1, matches=lambda method, _path: method == "GET")
    assert storage.read_bytes("image") == CONTENT
    assert faults.faults == 1
