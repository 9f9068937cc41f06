"""GET over HTTP/1.1 with as little CPU as it takes: small objects come by the million.

A request is one send, and most answers are one receive: 0.08 ms of CPU where urllib3 and
http.client take 0.4, for they build a message of objects out of each answer's headers. Where an
HTTP proxy lies between, urllib3 does it all.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import urllib3

from sightline.errors import UserError
from sightline.storage.retries import Clock, PassingError

_READ_BYTES = 2**18
_MAX_HEAD_BYTES = 2**16
_MAX_LINE_BYTES = 1024
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Answer:
    """What a server said; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Patience(NamedTuple):
    """How long to wait, in seconds."""

    connect: float
    read: float
    """For the next bytes, each time."""
    ends: float
    """The clock's time at which a body that still comes is given up."""
    clock: Clock


class NotConnectedError(OSError):
    """No connection came about; what it was raised from says why."""


class Origin(Protocol):
    """A server that can be asked by several threads at once."""

    def get(self, path: str, headers: Mapping[str, str], patience: Patience) -> Answer:
        """Return the whole answer, whatever its status.

        Raises:
            PassingError: If the body was cut, came too slowly or was no HTTP.
            OSError: If the connection failed, or timed out.
        """
        ...


def body_was_cut(got_bytes: int, announced_bytes: int) -> PassingError:
    """Return the error of a body that ended early."""
    reason = f"the body ended after {got_bytes} of {announced_bytes} bytes"
    return PassingError(reason, kind="cut body")


class DirectOrigin:
    """A server without a proxy before it.

    Args:
        url: Scheme, host and port.
        host: Its Host header.
        connections: How many requests may be under way at once.
        tls: What certificates must satisfy; None: not over TLS.
    """

    def __init__(self, url: str, host: str, connections: int, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        self._tls = tls
        self._host = host
        self._idle: deque[_Connection] = deque()
        self._free = BoundedSemaphore(connections)

    def get(self, path: str, headers: Mapping[str, str], patience: Patience) -> Answer:
        """Return the whole answer, whatever its status."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "Accept-Encoding: identity", "\r\n"]).encode("latin-1")
        if request.count(b"\n") != len(lines) + 2:
            raise UserError(
                "a header of a request to S3 would hold a line break: look for one at the end of "
                "the credentials or the region"
            )
        with self._free:
            connection = self._take_idle() or self._connect(patience)
            try:
                connection.ask(request, patience)
                answer = connection.receive(patience)
            except BaseException:
                connection.close()
                raise
            if connection.is_reusable:
                self._idle.append(connection)
            else:
                connection.close()
            return answer

    def _take_idle(self) -> _Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_quiet():
                return connection
            connection.close()

    def _connect(self, patience: Patience) -> _Connection:
        try:
            connected = socket.create_connection(self._address, patience.connect)
            if self._tls:
                # It takes the socket over, and closes it where it fails.
                connected = self._tls.wrap_socket(connected, server_hostname=self._address[0])
        except OSError as error:
            raise NotConnectedError(str(error)) from error
        return _Connection(connected)


class _Connection:
    """One connection; what is received beyond an answer's head waits in `_rest`."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._rest = b""
        self.is_reusable = False

    def close(self) -> None:
        self._socket.close()

    def is_quiet(self) -> bool:
        """Say whether nothing came while it was idle, neither its end nor a word too many."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def ask(self, request: bytes, patience: Patience) -> None:
        """Send a request and wait for the first bytes of the answer.

        Raises:
            OSError: If the server closed the connection instead of answering, among others.
        """
        self._socket.settimeout(patience.read)
        self._socket.sendall(request)
        self._rest = self._socket.recv(_READ_BYTES)
        if not self._rest:
            raise ConnectionError("the server closed the connection without an answer")

    def receive(self, patience: Patience) -> Answer:
        """Return the answer that has begun to come."""
        status = 100
        while 100 <= status < 200:  # such as 100 Continue, before the answer proper
            version, status, headers = _parse_head(self._receive_head(patience))
        kept = headers.get("connection", "").lower()
        closes = "close" in kept or (version == "HTTP/1.0" and "keep-alive" not in kept)
        length = headers.get("content-length", "")
        if status in (204, 304):
            content = b""
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            content = self._receive_chunks(patience)
        elif length.isdigit():
            content = self._receive_exactly(int(length), patience)
        else:
            content, closes = self._receive_all(patience), True
        self.is_reusable = not closes and not self._rest
        return Answer(status, headers, content)

    def _more(self, size_bytes: int, patience: Patience) -> bytes:
        got = self._socket.recv(min(size_bytes, _READ_BYTES))
        # A body that trickles is given up at the deadline.
        if patience.clock.monotonic() > patience.ends:
            raise PassingError("the body came too slowly", kind="slow body")
        return got

    def _receive_head(self, patience: Patience) -> bytes:
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            if len(self._rest) > _MAX_HEAD_BYTES:
                raise _no_http()
            got = self._more(_READ_BYTES, patience)
            if not got:
                raise ConnectionError("the server closed the connection within the headers")
            self._rest += got
        head, self._rest = self._rest[:end], self._rest[end + 4 :]
        return head

    def _receive_exactly(self, size_bytes: int, patience: Patience) -> bytes:
        parts = [self._rest[:size_bytes]]
        self._rest = self._rest[size_bytes:]
        missing = size_bytes - len(parts[0])
        while missing:
            got = self._more(missing, patience)
            if not got:
                raise body_was_cut(size_bytes - missing, size_bytes)
            parts.append(got)
            missing -= len(got)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive_all(self, patience: Patience) -> bytes:
        parts, self._rest = [self._rest], b""
        while got := self._more(_READ_BYTES, patience):
            parts.append(got)
        return b"".join(parts)

    def _receive_chunks(self, patience: Patience) -> bytes:
        parts: list[bytes] = []
        while True:
            size = self._receive_line(patience).partition(b";")[0].strip()
            try:
                size_bytes = int(size, 16)
            except ValueError:
                raise _no_http() from None
            if size_bytes == 0:
                while self._receive_line(patience):
                    pass  # trailers tell nothing that we use
                return b"".join(parts)
            parts.append(self._receive_exactly(size_bytes, patience))
            if self._receive_line(patience):
                raise _no_http()

    def _receive_line(self, patience: Patience) -> bytes:
        while (end := self._rest.find(b"\r\n")) < 0:
            if len(self._rest) > _MAX_LINE_BYTES:
                raise _no_http()
            got = self._more(_READ_BYTES, patience)
            if not got:
                raise PassingError("the body was cut", kind="cut body")
            self._rest += got
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line


def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise _no_http()
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return version, int(rest[:3]), headers


def _no_http() -> PassingError:
    return PassingError("the server's answer is no HTTP", kind="no HTTP")


class ProxiedOrigin:
    """A server that is reached by an HTTP proxy, as the environment says.

    Args:
        url: Scheme, host and port.
        proxy: The proxy's address, with a user and a password if it asks for them.
        connections: How many requests may be under way at once.
        certificates: File of the authorities that are trusted.
    """

    def __init__(self, url: str, proxy: str, connections: int, certificates: str) -> None:
        parts = urlsplit(proxy)
        password = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        asked = urllib3.make_headers(proxy_basic_auth=password) if parts.username else None
        manager = urllib3.ProxyManager(
            proxy, maxsize=connections, block=True, ca_certs=certificates, proxy_headers=asked
        )
        self._url = url
        self._manager = manager

    def get(self, path: str, headers: Mapping[str, str], patience: Patience) -> Answer:
        """Return the whole answer, whatever its status."""
        response = self._manager.urlopen(
            "GET",
            self._url + path,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=patience.connect, read=patience.read),
            preload_content=False,
            decode_content=False,
        )
        try:
            content = _read_body(response, patience)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        answered = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, answered, content)


def _read_body(response: urllib3.BaseHTTPResponse, patience: Patience) -> bytes:
    chunks = []
    # read1 returns what has come: a body that trickles is then given up at the deadline.
    while chunk := response.read1(2**20):
        chunks.append(chunk)
        if patience.clock.monotonic() > patience.ends:
            raise PassingError("the body came too slowly", kind="slow body")
    content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and len(content) != int(announced):
        raise body_was_cut(len(content), int(announced))
    return content
