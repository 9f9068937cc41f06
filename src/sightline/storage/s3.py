"""An S3 bucket as storage, on AWS and on servers that speak its protocol.

Many small reads are what training lives on, so a GET is signed by `s3_signing` and sent by
`http_get` (a twentieth of `get_object`'s CPU); everything else goes through boto3's
client with its own retries off. Each request and the reading of its answer are one attempt of
`retries.Retries`: boto3 alone never retries a body that was cut midway.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import socket
import ssl
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import botocore.exceptions as boto_errors
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from sightline.errors import UserError
from sightline.storage.base import Entry, NotFoundError
from sightline.storage.http_get import (
    Answer,
    DirectOrigin,
    Origin,
    Patience,
    ProxiedOrigin,
    body_was_cut,
)
from sightline.storage.local import replacing
from sightline.storage.retries import REAL_CLOCK, Clock, PassingError, Retries
from sightline.storage.s3_checksums import WholeObjects
from sightline.storage.s3_errors import (
    Access,
    ConditionFailedError,
    NotServedError,
    Refusal,
    Target,
    explain_refusal,
    refusal_from_xml,
)
from sightline.storage.s3_listing import Page, page_query, parse_page
from sightline.storage.s3_signing import GetSigner, canonical_query, host_header
from sightline.storage.settings import StorageConfig

PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000
_PARALLEL_PARTS = 2
MAX_KEY_BYTES = 1024
_PROBE_PREFIX = ".sightline-probe-"

_Failures = list[PassingError]


@dataclass(frozen=True)
class _Unfinished(Entry):
    upload_id: str = ""


@dataclass(frozen=True)
class _Read:
    content: bytes
    etag: str
    total_bytes: int


class S3Storage:
    """Objects below one prefix of a bucket.

    Args:
        uri: `s3://bucket` or `s3://bucket/prefix`, as `check_address` lets it pass.
        config: How to reach the server; None: what holds in this process.
        clock: What waits between tries.

    Raises:
        UserError: If there are no credentials.
    """

    def __init__(
        self, uri: str, config: StorageConfig | None = None, clock: Clock = REAL_CLOCK
    ) -> None:
        self.bucket, self._prefix = _parse(uri)
        self.uri = f"s3://{self.bucket}/{self._prefix}".rstrip("/")
        self._config = StorageConfig.from_environment() if config is None else config
        self._retries = Retries(self._config.s3_retries, self._config.s3_deadline_seconds, clock)
        self._held = _connect(self._config)
        self.parallel_requests = self._config.s3_connections

    def __reduce__(self) -> tuple[Any, ...]:
        # A connection belongs to its process, and its credentials to no pickle.
        return S3Storage, (self.uri, self._config, self._retries.clock)

    def read_bytes(self, key: str, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, or `size_bytes` of them from `start`."""
        if size_bytes == 0:
            if not self.exists(key):
                raise NotFoundError(f"nothing is stored at {self._shown(key)}")
            return b""
        return self._read(key, start, size_bytes).content

    def write_bytes(self, key: str, content: bytes) -> None:
        """Store an object whole."""
        self._put(key, content)

    def write_if_unchanged(self, key: str, content: bytes, expected: bytes | None) -> bool:
        """Store an object only if it still holds `expected` (None: is absent); say whether.

        A server without conditional puts cannot rule out that another writer comes between: there
        the bytes are read back, which tells most writers that were overwritten, but not one that
        read its own before the other wrote: two may then both be told yes.
        """
        self._full_key(key)  # refused before anything is asked of the server
        if expected is None:
            condition = {"IfNoneMatch": "*"}
        else:
            try:
                present = self._read(key)
            except NotFoundError:
                return False
            if present.content != expected:
                return False
            condition = {"IfMatch": present.etag}
        if not self._honours_conditions():
            return self._write_and_read_back(key, content, expected)
        failures: _Failures = []
        try:
            self._put(key, content, condition, failures)
        except NotFoundError:  # IfMatch on what was deleted meanwhile
            return False
        except ConditionFailedError:
            # An earlier try of ours may have been carried out although its answer was lost.
            return bool(failures) and self.read_bytes(key) == content
        return True

    def upload(self, source: Path, key: str, only_new: bool = False) -> bool:
        """Store a local file whole; above 16 MiB in parts, of which none stays on a failure.

        With `only_new`, only where nothing is stored yet. A server without conditional puts cannot
        rule out that another writer comes between looking and storing.
        """
        condition: dict[str, str] = {}
        size_bytes = source.stat().st_size
        if only_new:
            if self._honours_conditions():
                condition = {"IfNoneMatch": "*"}
            # Not every server that honours them for whole objects does so for those in parts.
            if (size_bytes > PART_BYTES or not condition) and self.exists(key):
                return False
        part_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))
        try:
            if size_bytes <= PART_BYTES:
                self._put(key, source.read_bytes(), condition)
                return True
            try:
                self._upload_parts(source, key, part_bytes, condition)
            except _UploadGoneError:
                # The upload was ended or removed and the answer lost: which of them is unknown.
                self._upload_parts(source, key, part_bytes, condition)
        except ConditionFailedError:
            return False
        return True

    def download(self, key: str, target: Path) -> None:
        """Fetch an object into a local file, whole or not at all, 16 MiB at a time."""
        with replacing(target) as partial, partial.open("wb") as file:
            first = self._read(key, 0, PART_BYTES)
            file.write(first.content)
            while file.tell() < first.total_bytes:
                part = self._read(key, file.tell(), PART_BYTES, etag=first.etag)
                file.write(part.content)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, page by page, in key order.

        The empty objects that consoles put in place of folders are left out.
        """
        for entry in self._entries(prefix):
            name = entry.key.rpartition("/")[2]
            is_folder = not name and entry.size_bytes == 0
            if entry.key and not is_folder and not name.startswith(_PROBE_PREFIX):
                yield entry

    def find(self, key: str) -> Entry | None:
        """Return the object that is stored under the key, or None if there is none."""
        first = next(self.list(key), None)
        return first if first and first.key == key else None

    def exists(self, key: str) -> bool:
        """Say whether an object is stored under the key."""
        # One byte is read instead of asking for the head, whose answer never says why not.
        try:
            self._read(key, 0, 1)
        except NotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object."""
        with contextlib.suppress(NotFoundError):
            self._call("delete", key, "delete_object")

    def clear(self) -> None:
        """Remove every object below the address."""
        for entry in list(self.list()):
            self.delete(entry.key)

    def list_unfinished(self) -> Iterator[Entry]:
        """Yield uploads in parts that were begun and never ended, and our probes that stayed.

        The sizes of the uploads are unknown, so 0.
        """
        yield from self._entries(_PROBE_PREFIX)
        for page in self._upload_pages():
            for item in page.get("Uploads", ()):
                # Checked here too: what is listed gets removed, and not every server filters.
                if item["Key"].startswith(self._prefix):
                    key = item["Key"][len(self._prefix) :]
                    begun = item["Initiated"].timestamp()
                    yield _Unfinished(key, 0, begun, upload_id=item["UploadId"])

    def delete_unfinished(self, entry: Entry) -> None:
        """Remove what `list_unfinished` named."""
        if entry.key.startswith(_PROBE_PREFIX) and not isinstance(entry, _Unfinished):
            self.delete(entry.key)
            return
        if not isinstance(entry, _Unfinished):
            raise TypeError(f"{entry} does not come from list_unfinished")
        with contextlib.suppress(_UploadGoneError, NotFoundError):
            self._call("delete", entry.key, "abort_multipart_upload", {"UploadId": entry.upload_id})

    def require_writable(self) -> None:
        """Raise now, rather than after hours of work, if nothing can be stored here."""
        written = self._connection.written
        if self.uri not in written:
            self._try_writing()
            written.add(self.uri)

    @property
    def _connection(self) -> _Connection:
        if self._held.process != os.getpid():
            self._held = _connect(self._config)
        return self._held

    def _full_key(self, key: str) -> str:
        full = self._prefix + key
        if not key or key.startswith("/") or "\0" in key or {".", ".."} & set(key.split("/")):
            raise UserError(f"key {key!r} would leave {self.uri}")
        if len(full.encode("utf-8", errors="surrogatepass")) > MAX_KEY_BYTES:
            raise UserError(f"key {key[:60]!r}… is longer than the {MAX_KEY_BYTES} bytes of S3")
        return full

    def _shown(self, key: str) -> str:
        shown = f"{self.uri}/{key}" if key else self.uri
        return shown if shown.isprintable() else ascii(shown)

    def _target(self, key: str) -> Target:
        connection = self._connection
        return Target(self._shown(key), self.bucket, connection.endpoint, connection.key_id())

    def _read(
        self, key: str, start: int = 0, size_bytes: int | None = None, etag: str = ""
    ) -> _Read:
        full_key = self._full_key(key)
        headers = {}
        if start or size_bytes is not None:
            last = "" if size_bytes is None else start + size_bytes - 1
            headers["Range"] = f"bytes={start}-{last}"
        elif self._config.s3_checksums == "when_supported":
            headers["x-amz-checksum-mode"] = "ENABLED"
        if etag:
            headers["If-Match"] = etag

        def attempt(ends: float) -> _Read:
            answer = self._connection.get(self.bucket, full_key, headers, ends, self._retries.clock)
            if answer.status == 416:
                return _Read(b"", answer.headers.get("etag", ""), 0)
            if answer.status not in (200, 206):
                refusal = refusal_from_xml(answer.status, answer.content, answer.headers)
                raise explain_refusal(refusal, self._target(key), "read")
            if answer.status == 200:
                self._connection.whole_objects.check(self.bucket, full_key, answer)
            return _cut(answer, start, size_bytes)

        try:
            return self._retries.call(f"read {self._shown(key)}", attempt)
        except ConditionFailedError:
            raise UserError(f"{self._shown(key)} was replaced while it was read") from None

    def _put(
        self,
        key: str,
        content: bytes,
        condition: Mapping[str, str] | None = None,
        failures: _Failures | None = None,
    ) -> None:
        arguments = {"Body": content, **self._checksum(content), **(condition or {})}
        self._call("write", key, "put_object", arguments, failures)

    def _checksum(self, content: bytes) -> dict[str, str]:
        """Return the argument by which the server refuses an upload that was torn or damaged."""
        if self._config.s3_checksums == "when_supported":
            crc = zlib.crc32(content).to_bytes(4, "big")
            return {"ChecksumCRC32": base64.b64encode(crc).decode()}
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _call(
        self,
        access: Access,
        key: str,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        failures: _Failures | None = None,
    ) -> Any:
        named = {"Bucket": self.bucket, "Key": self._full_key(key), **(arguments or {})}
        return self._send(access, key, operation, named, failures)

    def _send(
        self,
        access: Access,
        key: str,
        operation: str,
        arguments: Mapping[str, Any],
        failures: _Failures | None = None,
    ) -> Any:
        def attempt(_ends: float) -> Any:
            connection = self._connection
            try:
                return getattr(connection.client, operation)(**arguments)
            except boto_errors.ClientError as error:
                refusal = _refusal_of(error)
                failure = explain_refusal(refusal, self._target(key), access)
                if refusal.code == "ExistingObjectIsDirectory" and _PROBE_PREFIX in key:
                    # Its name is new. versitygw says so while another's delete empties the folder.
                    failure = PassingError("the probe's folder was removed", kind=refusal.code)
            except boto_errors.BotoCoreError as error:
                failure = _explain_boto(error, connection.endpoint)
            if failures is not None and isinstance(failure, PassingError):
                failures.append(failure)
            if operation in _PART_OPERATIONS and isinstance(failure, NotFoundError):
                raise _UploadGoneError(str(failure)) from None
            raise failure

        return self._retries.call(f"{access} {self._shown(key)}", attempt)

    def _entries(self, prefix: str) -> Iterator[Entry]:
        page = self._list(prefix)
        # The next page is on its way while the caller goes through this one.
        with ThreadPoolExecutor(1) as pool:
            while page.next_token:
                following = pool.submit(self._list, prefix, page.next_token)
                yield from page.entries
                page = following.result()
            yield from page.entries

    def _list(self, prefix: str, token: str = "") -> Page:
        query = page_query(self._prefix + prefix, token)

        def attempt(ends: float) -> Page:
            answer = self._connection.get(self.bucket, "", {}, ends, self._retries.clock, query)
            if answer.status != 200:
                refusal = refusal_from_xml(answer.status, answer.content, answer.headers)
                raise explain_refusal(refusal, self._target(prefix), "list")
            return parse_page(answer.content, self._prefix)

        return self._retries.call(f"list {self._shown(prefix)}", attempt)

    def _upload_pages(self) -> Iterator[Any]:
        arguments = {"Bucket": self.bucket, "Prefix": self._prefix}
        while True:
            page = self._send("list", "", "list_multipart_uploads", arguments)
            yield page
            if not page.get("IsTruncated"):
                return
            markers = ("KeyMarker", "UploadIdMarker")
            arguments |= {marker: page[f"Next{marker}"] for marker in markers}

    def _honours_conditions(self) -> bool:
        conditions = self._connection.conditions
        if self.bucket not in conditions:
            self._try_writing()
        return conditions[self.bucket]

    def _try_writing(self) -> None:
        """Store an empty object and find out, once a bucket, whether conditional puts hold."""
        connection = self._connection
        # The name is new each time: a fixed one could be removed by another process in between.
        key = _PROBE_PREFIX + uuid.uuid4().hex
        self.write_bytes(key, b"")
        try:
            with connection.probing:
                if self.bucket not in connection.conditions:
                    connection.conditions[self.bucket] = self._refuses_conditions(key)
        finally:
            with contextlib.suppress(UserError):  # a role may write but not delete
                self.delete(key)

    def _refuses_conditions(self, key: str) -> bool:
        """Say whether puts are refused whose conditions do not hold for an object that is there."""
        try:
            return all(
                self._is_refused(key, condition)
                for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'})
            )
        except NotServedError:
            return False

    def _is_refused(self, key: str, condition: Mapping[str, str]) -> bool:
        try:
            self._put(key, b"", condition)
        except ConditionFailedError:
            return True
        return False

    def _write_and_read_back(self, key: str, content: bytes, expected: bytes | None) -> bool:
        if expected is None and self.exists(key):
            return False
        self.write_bytes(key, content)
        return self.read_bytes(key) == content

    def _upload_parts(
        self, source: Path, key: str, part_bytes: int, condition: Mapping[str, str]
    ) -> None:
        summed = self._config.s3_checksums == "when_supported"
        algorithm = {"ChecksumAlgorithm": "CRC32"} if summed else {}
        begun = self._call("write", key, "create_multipart_upload", algorithm)
        upload = {"UploadId": begun["UploadId"]}
        try:

            def send(number: int, content: bytes) -> dict[str, Any]:
                checksum, place = self._checksum(content), {"PartNumber": number}
                sent = {**upload, **place, **checksum, "Body": content}
                stored = self._call("write", key, "upload_part", sent)
                part = {**place, "ETag": stored["ETag"]}
                return {**part, **checksum} if summed else part

            # One is read and summed while another is on its way.
            with source.open("rb") as file, ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
                sending: deque[Future[dict[str, Any]]] = deque()
                parts: list[dict[str, Any]] = []
                for number in itertools.count(1):
                    if len(sending) == _PARALLEL_PARTS:
                        parts.append(sending.popleft().result())
                    if not (content := file.read(part_bytes)):
                        break
                    sending.append(pool.submit(send, number, content))
                parts += [part.result() for part in sending]
            ended = {**upload, "MultipartUpload": {"Parts": parts}, **condition}
            self._call("write", key, "complete_multipart_upload", ended)
        except BaseException:
            with contextlib.suppress(Exception):  # the first failure is the one to tell
                self._call("delete", key, "abort_multipart_upload", upload)
            raise


_PART_OPERATIONS = {"upload_part", "complete_multipart_upload", "abort_multipart_upload"}


class _UploadGoneError(UserError):
    """A multipart upload that the server no longer knows."""


class _Connection:
    """One boto3 client and one pool of connections, shared by a process's threads."""

    def __init__(self, config: StorageConfig) -> None:
        self.process = os.getpid()
        self.written: set[str] = set()
        """Addresses where something was written already."""
        self.conditions: dict[str, bool] = {}
        """Whether a bucket's server honours conditional puts, once that was tried."""
        self.probing = threading.Lock()
        self.whole_objects = WholeObjects()
        self._config = config
        try:
            session = boto3.Session()
            self._credentials = session.get_credentials()
        except boto_errors.BotoCoreError as error:
            raise _unusable_credentials(error) from None
        if self._credentials is None:
            raise _unusable_credentials(None)
        region = config.s3_region or session.region_name or "us-east-1"
        _require_sendable("s3_region", region)
        # Those of a role come from a server, which is asked when they are needed.
        if not isinstance(self._credentials, RefreshableCredentials):
            _require_sendable("AWS_ACCESS_KEY_ID", self._credentials.access_key)
            _require_sendable("AWS_SECRET_ACCESS_KEY", self._credentials.secret_key)
            _require_sendable("AWS_SESSION_TOKEN", self._credentials.token or "")
        addressing = config.s3_addressing
        if addressing == "auto" and config.s3_endpoint_url:
            addressing = "path"
        try:
            self.client = session.client(
                "s3",
                endpoint_url=config.s3_endpoint_url or None,
                region_name=region,
                config=Config(
                    retries={"total_max_attempts": 1},
                    connect_timeout=config.s3_connect_timeout_seconds,
                    read_timeout=config.s3_read_timeout_seconds,
                    max_pool_connections=config.s3_connections,
                    s3={"addressing_style": addressing},
                    request_checksum_calculation=config.s3_checksums,
                    response_checksum_validation=config.s3_checksums,
                ),
            )
        except ValueError:
            # The library's text repeats the address whole, and with it what was put into it.
            raise UserError(
                "the address of the S3 server is no valid one: give http://host:port in "
                "s3_endpoint_url or AWS_ENDPOINT_URL_S3"
            ) from None
        except boto_errors.BotoCoreError as error:
            raise UserError(f"cannot use S3 as set: {error}") from None
        self.endpoint: str = self.client.meta.endpoint_url
        if "@" in self.endpoint:  # wherever it was set: messages name the endpoint
            raise UserError(
                "the address of the S3 server holds credentials: give http://host:port, and the "
                "credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self._signer = GetSigner(self.client.meta.region_name)
        bundle = session._session.get_config_variable("ca_bundle")
        self._certificates: str = bundle or get_cert_path(True)
        self._addresses: dict[str, tuple[Origin, str, str]] = {}
        self._origins: dict[str, Origin] = {}
        # Now: a file of authorities that cannot be used is told before any request.
        self._tls = self._make_tls() if self.endpoint.startswith("https:") else None

    def key_id(self) -> str:
        """Return the access key id that requests are signed with."""
        return str(self._current_credentials().access_key)

    def get(
        self,
        bucket: str,
        key: str,
        headers: Mapping[str, str],
        ends: float,
        clock: Clock,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Fetch an object, or without a key what the query asks of the bucket.

        The answer may be a refusal.

        Raises:
            PassingError: If no whole answer came.
        """
        origin, host, folder = self._address(bucket)
        path = folder + quote(key, safe="/~") if key else folder.rstrip("/") or "/"
        asked = canonical_query(query or {})
        by, now = self._current_credentials(), datetime.now(UTC)
        signed = self._signer.sign(host, path, headers, by, now, asked)
        path += f"?{asked}" if asked else ""
        left = max(0.001, ends - clock.monotonic())
        patience = Patience(
            connect=min(left, self._config.s3_connect_timeout_seconds),
            read=min(left, self._config.s3_read_timeout_seconds),
            ends=ends,
            clock=clock,
        )
        try:
            return origin.get(path, signed, patience)
        except (HTTPError, OSError) as error:
            raise _explain_transport(error, self.endpoint) from None

    def _current_credentials(self) -> Any:
        try:
            return self._credentials.get_frozen_credentials()
        except (boto_errors.BotoCoreError, boto_errors.ClientError) as error:
            # Those of a role are fetched anew now and then, which can fail for a while.
            failure = _explain_boto(error, "the source of the credentials")
            passing = isinstance(failure, PassingError)
            raise failure if passing else _unusable_credentials(error) from None

    def _address(self, bucket: str) -> tuple[Origin, str, str]:
        """Return where a bucket's objects are: its server, its host, and the path before."""
        if bucket not in self._addresses:
            # boto3's own answer to where an object is, by whichever of its many rules applies.
            url = self.client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": "k"}
            )
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}"
            folder = parts.path.removesuffix("k")
            self._addresses[bucket] = self._open(origin), host_header(origin), folder
        return self._addresses[bucket]

    def _open(self, url: str) -> Origin:
        connections = self._config.s3_connections
        proxy = get_environ_proxies(self.endpoint).get(urlsplit(self.endpoint).scheme)
        if proxy:
            return ProxiedOrigin(url, proxy, connections, self._certificates)
        # One for all buckets of a server, as its limit of connections is one for all.
        if url not in self._origins:
            self._origins[url] = DirectOrigin(url, host_header(url), connections, self._tls)
        return self._origins[url]

    def _make_tls(self) -> ssl.SSLContext:
        tls = create_urllib3_context()
        try:
            tls.load_verify_locations(self._certificates)
        except OSError as error:
            raise UserError(
                f"cannot use {self._certificates} as the file of trusted authorities "
                f"({error.strerror or error}): name another in AWS_CA_BUNDLE"
            ) from None
        return tls


_connections: dict[object, _Connection] = {}
_connecting = threading.Lock()


def _connect(config: StorageConfig) -> _Connection:
    credentials = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _connecting:
        key = (config, credentials)
        if key not in _connections:
            _connections[key] = _Connection(config)
        return _connections[key]


def _forget_connections() -> None:
    # A socket that two processes read gives each of them half an answer.
    global _connecting
    _connecting = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=_forget_connections)


def _parse(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, "".join(f"{part}/" for part in prefix.split("/") if part)


def _cut(answer: Answer, start: int, size_bytes: int | None) -> _Read:
    """Return what was asked for, whole, however the server understood the range."""
    etag, content = answer.headers.get("etag", ""), answer.content
    if answer.status == 200:
        ends = None if size_bytes is None else start + size_bytes
        return _Read(content[start:ends], etag, len(content))
    span, _, total = answer.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    if not (first.isdigit() and total.isdigit() and int(first) == start):
        raise PassingError("the server answered with another range", kind="wrong range")
    wanted = int(total) - start if size_bytes is None else min(size_bytes, int(total) - start)
    if len(content) != wanted:
        raise body_was_cut(len(content), wanted)
    return _Read(content, etag, int(total))


def _refusal_of(error: boto_errors.ClientError) -> Refusal:
    described = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    headers = {str(name).lower(): str(v) for name, v in metadata.get("HTTPHeaders", {}).items()}
    for name in ("RequestTime", "ServerTime"):
        if name in described:
            headers[f"document-{name.lower()}"] = str(described[name])
    status = int(metadata.get("HTTPStatusCode", 0))
    return Refusal(
        status, str(described.get("Code", "")), str(described.get("Message", "")), headers
    )


def _require_sendable(name: str, value: str) -> None:
    """Refuse what no request can carry, such as the line break at the end of a Kubernetes secret.

    Sent, it would look like a connection that fails.
    """
    if not value.isascii() or any(mark.isspace() or mark < " " for mark in value):
        raise UserError(
            f"{name} holds a space, a line break or another mark that it cannot have: look at its "
            "end, and at where it comes from (a secret, a profile)"
        )


def _unusable_credentials(error: Exception | None) -> UserError:
    reason = f": {' '.join(str(error).split())}" if error else ""
    return UserError(
        f"no credentials for S3{reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
        "where a role or a Kubernetes secret gives them"
    )


def _explain_boto(error: Exception, endpoint: str) -> Exception:
    transport = (
        boto_errors.ConnectionError,
        boto_errors.HTTPClientError,
        boto_errors.IncompleteReadError,
    )
    if isinstance(error, transport):
        cause = getattr(error, "kwargs", {}).get("error")
        return _explain_transport(cause if isinstance(cause, Exception) else error, endpoint)
    if isinstance(error, boto_errors.FlexibleChecksumError):
        return PassingError("the bytes do not match their checksum", kind="wrong bytes")
    if isinstance(error, boto_errors.NoCredentialsError | boto_errors.CredentialRetrievalError):
        return _unusable_credentials(error)
    return UserError(f"cannot use {endpoint}: {' '.join(str(error).split())}")


def _explain_transport(error: BaseException, endpoint: str) -> Exception:
    causes = _causes(error)
    names = {type(cause).__name__ for cause in causes}
    for cause in causes:
        text = str(cause)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return UserError(
                f"the certificate of {endpoint} is not trusted: name the file of its authority "
                "in AWS_CA_BUNDLE"
            )
        if "WRONG_VERSION_NUMBER" in text:
            return UserError(f"{endpoint} does not speak TLS: give it with http://")
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
            return UserError(f"there is no host of {endpoint}: mend s3_endpoint_url")
    has_timed_out = any(isinstance(cause, TimeoutError) for cause in causes)
    if "ConnectTimeoutError" in names or ("NotConnectedError" in names and has_timed_out):
        return PassingError(f"no connection to {endpoint} in time", kind="connect timeout")
    if "ReadTimeoutError" in names or has_timed_out:
        return PassingError(f"{endpoint} stopped answering", kind="read timeout")
    if names & {"IncompleteRead", "IncompleteReadError"}:
        return PassingError("the body was cut", kind="cut body")
    if names & {
        "NotConnectedError",
        "NewConnectionError",
        "EndpointConnectionError",
        "NameResolutionError",
    }:
        return PassingError(f"no connection to {endpoint}", kind="no connection")
    return PassingError(f"{endpoint} closed the connection", kind="connection closed")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it says it came from, by any of the ways libraries say it."""
    found = [error]
    for cause in found:
        for next_one in (getattr(cause, "reason", None), cause.__cause__, cause.__context__):
            if isinstance(next_one, BaseException) and next_one not in found:
                found.append(next_one)
    return found
