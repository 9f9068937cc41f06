"""What servers may answer with, sent byte by byte as they send it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

import pytest

from sightline.errors import UserError
from sightline.storage.http_get import DirectOrigin, NotConnectedError, Patience, ProxiedOrigin
from sightline.storage.retries import REAL_CLOCK, PassingError

PLAIN = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 5\r\n\r\nhello'
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"

# Connections that may be used again stay open until the process ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Server:
    """Answers the requests of each connection with its next script, one part a request."""

    def __init__(self, *scripts):
        self.requests = []
        self.connections = 0
        self._scripts = scripts
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        for script in self._scripts:
            connection, _ = self._socket.accept()
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                for answer in script:
                    request = b""
                    while not request.endswith(b"\r\n\r\n"):
                        request += connection.recv(65536)
                    self.requests.append(request.decode())
                    for part in answer if isinstance(answer, list) else [answer]:
                        connection.sendall(part)
                        time.sleep(0.01 if isinstance(answer, list) else 0)

    def close(self):
        self.thread.join(5)
        self._socket.close()


@pytest.fixture
def serve():
    """Return `serve(*scripts)`: a server and the origin that asks it."""
    servers = []

    def start(*scripts):
        server = Server(*scripts)
        servers.append(server)
        return server, DirectOrigin(f"http://{server.host}", server.host, 4, None)

    yield start
    for server in servers:
        server.close()


def patience(**changed):
    values = {"connect": 2, "read": 2, "ends": time.monotonic() + 5, "clock": REAL_CLOCK}
    return Patience(**{**values, **changed})


def get(origin, path="/bucket/key", headers=None, **changed):
    return origin.get(path, headers or {}, patience(**changed))


def test_request_names_host_and_path_and_carries_the_headers(serve):
    server, origin = serve([PLAIN])
    answer = get(origin, "/b/a%20b", {"Range": "bytes=0-4"})
    assert (answer.status, answer.content, answer.headers["etag"]) == (200, b"hello", '"x"')
    lines = server.requests[0].split("\r\n")
    assert lines[:3] == ["GET /b/a%20b HTTP/1.1", f"Host: {server.host}", "Range: bytes=0-4"]


def test_connection_is_kept_until_the_server_says_close(serve):
    server, origin = serve([PLAIN, PLAIN, CLOSED], [CLOSED])
    assert [get(origin).content for _ in range(4)] == [b"hello"] * 4
    assert server.connections == 2


def test_connection_that_the_server_closed_while_it_was_idle_is_not_used(serve):
    server, origin = serve([PLAIN], [CLOSED])
    get(origin)
    time.sleep(0.1)
    assert get(origin).content == b"hello"
    assert server.connections == 2


def test_word_too_many_is_never_taken_for_the_next_answer(serve):
    server, origin = serve([PLAIN + CLOSED], [CLOSED])
    get(origin)
    assert get(origin).content == b"hello"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ([PLAIN[:9], PLAIN[9:30], PLAIN[30:-2], PLAIN[-2:]], b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, b"hello"),
        (
            CHUNKED + b"\r\n5;x=y\r\nhello\r\nA\r\n, you all!\r\n0\r\nx-sum: 1\r\n\r\n",
            b"hello, you all!",
        ),
        ([CHUNKED, b"\r\n5\r", b"\nhel", b"lo\r\n0\r\n", b"\r\n"], b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", b""),
        (b"HTTP/1.1 416 Range\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b""),
    ],
)
def test_every_way_to_end_an_answer_is_understood(answer, content, serve):
    _, origin = serve([answer])
    assert get(origin).content == content


def test_large_body_comes_whole(serve):
    body = bytes(range(256)) * 20_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    _, origin = serve([head + body])
    assert get(origin).content == body


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell", "cut body"),
        (CHUNKED + b"\r\n5\r\nhel", "cut body"),
        (CHUNKED + b"\r\n5\r\nhello", "cut body"),
        (CHUNKED + b"\r\nfive\r\n", "no HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 fine\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "no HTTP"),
    ],
)
def test_what_is_cut_or_no_http_can_be_tried_again(answer, kind, serve):
    _, origin = serve([answer])
    with pytest.raises(PassingError) as caught:
        get(origin)
    assert caught.value.kind == kind


def test_end_instead_of_an_answer_is_a_lost_connection(serve):
    for answer in (b"", b"HTTP/1.1 200 OK\r\nContent"):
        _, origin = serve([answer])
        with pytest.raises(ConnectionError, match="the server closed the connection"):
            get(origin)


def test_silence_and_a_trickle_are_given_up(serve):
    _, origin = serve([[b"HTTP/1.1 200 OK\r\n", *[b""] * 50]])
    with pytest.raises(TimeoutError):
        get(origin, read=0.1)
    _, origin = serve([[b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n", *[b"x"] * 40]])
    with pytest.raises(PassingError, match="too slowly"):
        get(origin, ends=time.monotonic() + 0.1)


def test_server_that_is_not_there_is_not_connected(serve):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NotConnectedError, match="refused"):
        get(DirectOrigin(f"http://127.0.0.1:{port}", "x", 4, None))


def test_server_that_speaks_no_tls_is_not_connected(serve):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]

        def answer():
            connection, _ = plain.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NotConnectedError) as caught:
            get(DirectOrigin(f"https://127.0.0.1:{port}", "x", 4, ssl.create_default_context()))
        thread.join()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


def test_line_break_in_a_header_is_refused():
    with pytest.raises(UserError, match="would hold a line break"):
        get(DirectOrigin("http://127.0.0.1:1", "x", 4, None), headers={"Authorization": "a\nb: c"})


def test_proxy_is_asked_for_the_whole_address(serve):
    server, _ = serve([CLOSED])
    origin = ProxiedOrigin("http://s3.example:9000", f"http://{server.host}", 4, "")
    assert get(origin).content == b"hello"
    assert server.requests[0].startswith("GET http://s3.example:9000/bucket/key HTTP/1.1\r\n")


def test_proxy_gets_the_password_of_its_address(serve):
    server, _ = serve([CLOSED])
    proxy = f"http://user:p%40ss@{server.host}"
    assert get(ProxiedOrigin("http://s3.example:9000", proxy, 4, "")).content == b"hello"
    # base64 of user:p@ss
    assert "proxy-authorization: Basic dXNlcjpwQHNz\r\n" in server.requests[0]
