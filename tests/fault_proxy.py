"""An HTTP proxy in front of a real S3 server that does to requests what networks do to them."""

from __future__ import annotations

import http.client
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_PACKET_BYTES = 128 * 1024

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"

# Names of faults that are no status of the server's own.
RESET = "reset"  # the connection is reset before the request is handed on
LOST_ANSWER = "lost answer"  # the request is carried out, then the connection is reset
CUT = "cut"  # half of the body, then the end
STALL = "stall"  # half of the body, then nothing
SILENCE = "silence"  # no answer at all
WRONG_BYTES = "wrong bytes"  # a body of the right length
TORN_UPLOAD = "torn upload"  # the upstream gets half of the request's body, then a reset
DAMAGED_UPLOAD = "damaged upload"  # the upstream gets other bytes


@dataclass(frozen=True)
class Answer:
    """A refusal that the proxy gives in the server's place."""

    status: int
    code: str
    message: str = "no"
    more: str = ""
    headers: dict[str, str] = field(default_factory=dict)


EVERY_WAY: tuple[str | Answer, ...] = (
    Answer(500, "InternalError"),
    Answer(503, "SlowDown"),
    Answer(429, "TooManyRequests"),
    RESET,
    LOST_ANSWER,
    CUT,
    STALL,
    WRONG_BYTES,
)


@dataclass
class _Plan:
    fault: str | Answer
    first: int | None
    share: float
    matches: Callable[[str, str], bool]
    random: random.Random


class FaultProxy:
    """Serves on 127.0.0.1 and forwards to `upstream_url`, as signed: the Host header stays."""

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        self.upstream = (upstream.hostname or "", upstream.port or 80)
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request that came."""
        self.faults = 0
        """How many of them were met with a fault."""
        self.drop_headers: frozenset[str] = frozenset()
        """Names of headers that are not handed on, in lower case."""
        self.refuse_headers: frozenset[str] = frozenset()
        """Names of headers that the server is to know nothing of, in lower case."""
        self.upload_bytes_per_second: float | None = None
        """How fast the line to the server takes what all clients send together; None: at once."""
        self.line = threading.Lock()
        self.hosts: list[str] = []
        """The Host header of each request."""
        self.stopping = threading.Event()
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._fell = False
        self.start()

    @property
    def url(self) -> str:
        """Return the address that clients are given."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, at the same port as before; serving already is fine."""
        if self._server is not None:
            return
        this = self

        class Handler(_Handler):
            proxy = this

        self.stopping.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be down: connections are refused, and those that are open end."""
        if self._server is not None:
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def fail(
        self,
        fault: str | Answer,
        *,
        first: int | None = None,
        share: float = 1.0,
        matches: Callable[[str, str], bool] = lambda _method, _path: True,
        seed: int = 0,
    ) -> None:
        """Meet requests with a fault: the first few that match, or a share of them; None: all."""
        self._plans.append(_Plan(fault, first, share, matches, random.Random(seed)))

    def fail_in_every_way(self, share: float) -> None:
        """Meet a share of the requests with each fault that a later try may not meet again."""
        for seed, fault in enumerate(EVERY_WAY):
            self.fail(fault, share=share, seed=seed)

    def be_down(self, after_requests: int, seconds: float) -> None:
        """Go down for a while when so many more requests have come; gives no answer meanwhile."""

        def fall(_method: str, _path: str) -> bool:
            if len(self.requests) < wanted or self._fell:
                return False
            self._fell = True
            threading.Thread(target=self._rest, args=(seconds,), daemon=True).start()
            return True

        self._fell = False
        wanted = len(self.requests) + after_requests
        self.fail(RESET, matches=fall)

    def _rest(self, seconds: float) -> None:
        self.stop()
        time.sleep(seconds)
        self.start()

    def restart(self) -> None:
        """Be as if new, at the same port."""
        self.start()
        self.heal()
        self.requests.clear()
        self.faults = 0
        self.drop_headers = frozenset()
        self.refuse_headers = frozenset()
        self.upload_bytes_per_second = None
        self.hosts.clear()

    def heal(self) -> None:
        """Forget every fault that was asked for."""
        self._plans.clear()

    def choose(self, method: str, path: str) -> str | Answer | None:
        """Note a request and return the fault that it meets."""
        with self._lock:
            self.requests.append((method, path))
            for plan in self._plans:
                if not plan.matches(method, path) or plan.first == 0:
                    continue
                if plan.random.random() >= plan.share:
                    continue
                if plan.first is not None:
                    plan.first -= 1
                self.faults += 1
                return plan.fault
        return None


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        super().finish()

    def handle_one_request(self) -> None:
        # An idle connection that was kept open ends when the proxy goes down.
        while not self._has_input():
            if self.proxy.stopping.is_set():
                self.close_connection = True
                return
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _has_input(self) -> bool:
        return bool(select.select([self.connection], [], [], 0.02)[0])

    def handle_any(self) -> None:
        body = self._receive(int(self.headers.get("Content-Length") or 0))
        self.proxy.hosts.append(self.headers["Host"])
        fault = self.proxy.choose(self.command, self.path)
        if self.proxy.refuse_headers & {name.lower() for name in self.headers}:
            fault = Answer(501, "NotImplemented")
        if self.proxy.stopping.is_set() or fault == RESET:
            self._reset()
        elif fault == SILENCE:
            self._wait_for_the_client_to_leave()
        elif isinstance(fault, Answer):
            content = ERROR.format(code=fault.code, message=fault.message, more=fault.more)
            self._send(fault.status, fault.headers, content.encode())
        elif fault == TORN_UPLOAD:
            self._tear(body)
            self._reset()
        else:
            if fault == DAMAGED_UPLOAD:
                body = _damaged(body)
            status, headers, content = self._forward(body)
            if fault == LOST_ANSWER:
                self._reset()
            elif fault in (CUT, STALL):
                self._send(status, headers, content, sent_bytes=len(content) // 2)
                if fault == STALL:
                    self._wait_for_the_client_to_leave()
                self.close_connection = True
            else:
                damaged = fault == WRONG_BYTES and status in (200, 206)
                self._send(status, headers, _damaged(content) if damaged else content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _receive(self, size_bytes: int) -> bytes:
        speed = self.proxy.upload_bytes_per_second
        if not speed:
            return self.rfile.read(size_bytes)
        body = bytearray()
        while len(body) < size_bytes:
            part = self.rfile.read(min(_PACKET_BYTES, size_bytes - len(body)))
            if not part:
                break
            body += part
            with self.proxy.line:
                time.sleep(len(part) / speed)
        return bytes(body)

    def _connect(self) -> http.client.HTTPConnection:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=30)
        return self._upstream

    def _put_head(self, connection: http.client.HTTPConnection) -> None:
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            # Expect was answered here; no client signs it.
            if name.lower() not in {"expect", *self.proxy.drop_headers}:
                connection.putheader(name, value)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = self._connect()
        self._put_head(connection)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        dropped = {"transfer-encoding", "connection"}
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in dropped}
        return answer.status, headers, content

    def _tear(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=30)
        self._put_head(connection)
        connection.endheaders(body[: len(body) // 2])
        connection.close()

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, sent_bytes: int | None = None
    ) -> None:
        self.send_response_only(status)
        lengths = {name for name in headers if name.lower() == "content-length"}
        for name, value in headers.items():
            self.send_header(name, value)
        if not lengths and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent_bytes])
            self.wfile.flush()

    def _reset(self) -> None:
        # Lingering for 0 seconds makes closing a reset instead of an orderly end.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True

    def _wait_for_the_client_to_leave(self) -> None:
        while not self._has_input() and not self.proxy.stopping.is_set():
            pass
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep the tests' output to themselves."""


def _damaged(content: bytes) -> bytes:
    return bytes(255 - byte for byte in content[:1]) + content[1:]
