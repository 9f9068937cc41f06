"""A TCP proxy that makes a server on this machine look far away.

It forwards bytes as they are, and holds the first bytes of each response back. What follows them
is not slowed, so it adds latency and takes no bandwidth.

python benchmarks/delaying_proxy.py --target http://127.0.0.1:9000 --delay-ms 25
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_READY = "listening on "
_READ_BYTES = 2**18


@contextmanager
def delayed(target: str, delay_seconds: float) -> Iterator[str]:
    """Start the proxy in a process of its own and yield its address, such as `http://…:40123`."""
    command = [
        sys.executable,
        __file__,
        "--target",
        target,
        "--delay-ms",
        f"{1000 * delay_seconds}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().removeprefix(_READY).strip()
        finally:
            process.terminate()


class Side:
    """One end of a forwarded connection; what it receives goes to its `other` end."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.number = connection.fileno()
        self.other: Side
        self.is_client = False
        self.is_over = False
        self.unsent = b""
        """What the other end was not yet fast enough to take."""


class Proxy:
    """Forwards connections in one thread, by as few system calls as it takes.

    Args:
        target: Where the server listens, host and port.
        delay_seconds: How long the first bytes of each response are held back.
    """

    def __init__(self, target: tuple[str, int], delay_seconds: float) -> None:
        self._target = target
        self._delay_seconds = delay_seconds
        self._poll = select.epoll()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listening.setblocking(False)
        # What is accepted inherits it.
        self._listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll.register(self._listening.fileno(), select.EPOLLIN)
        self._sides: dict[int, Side] = {}
        self._asked: set[Side] = set()
        """Servers' ends whose next bytes begin a response."""
        self._held: dict[Side, list[bytes]] = {}
        """What servers' ends sent of a response whose time has not come."""
        # The delay is the same for all, so the first that was held is the first to go.
        self._releases: deque[tuple[float, Side]] = deque()

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return int(self._listening.getsockname()[1])

    def serve(self) -> None:
        """Forward connections until the process ends."""
        releases, sides, now = self._releases, self._sides, time.monotonic
        listening = self._listening.fileno()
        while True:
            wait = max(0.0, releases[0][0] - now()) if releases else -1
            for number, events in self._poll.poll(wait):
                if number == listening:
                    self._accept()
                elif side := sides.get(number):
                    if events & select.EPOLLOUT:
                        self._send(side, b"")
                    if events & ~select.EPOLLOUT and number in sides:
                        self._receive(side)
            while releases and releases[0][0] <= now():
                self._release(releases.popleft()[1])

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            for connection in (accepted, server):
                connection.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = server.connect_ex(self._target)
            if error not in (0, errno.EINPROGRESS):
                accepted.close()
                server.close()
                continue
            asking, answering = Side(accepted), Side(server)
            asking.other, answering.other, asking.is_client = answering, asking, True
            for side in (asking, answering):
                self._sides[side.number] = side
                self._poll.register(side.number, select.EPOLLIN)

    def _receive(self, side: Side) -> None:
        try:
            data = side.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(side)
        elif side.is_client:
            self._asked.add(side.other)
            self._send(side.other, data)
        elif side in self._held:
            self._held[side].append(data)
        elif side in self._asked and self._delay_seconds:
            self._held[side] = [data]
            self._releases.append((time.monotonic() + self._delay_seconds, side))
        else:
            self._send(side.other, data)
        if not side.is_client:
            self._asked.discard(side)

    def _release(self, side: Side) -> None:
        held = self._held.pop(side, None)
        if held is None:
            return  # the client has gone meanwhile
        self._send(side.other, held[0] if len(held) == 1 else b"".join(held))
        if side.is_over:
            self._close_sent(side)

    def _end(self, side: Side) -> None:
        """One end is over; the other is closed when it has what was received for it."""
        side.is_over = True
        self._poll.unregister(side.number)
        if side not in self._held:
            self._close_sent(side)

    def _close_sent(self, side: Side) -> None:
        if not side.other.unsent:
            self._close(side)

    def _close(self, side: Side) -> None:
        for end in (side, side.other):
            if self._sides.pop(end.number, None):
                self._held.pop(end, None)
                self._asked.discard(end)
                end.socket.close()

    def _send(self, side: Side, data: bytes) -> None:
        """Send what is waiting and then `data`; where it is too much, read no more of it."""
        waited = bool(side.unsent)
        data = side.unsent + data if waited else data
        try:
            sent = side.socket.send(data) if data else 0
        except (BlockingIOError, OSError) as error:
            if error.errno not in (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS):
                self._close(side)
                return
            sent = 0
        side.unsent = data[sent:] if sent < len(data) else b""
        if side.unsent and not waited:
            self._poll.modify(side.number, select.EPOLLIN | select.EPOLLOUT)
            if not side.other.is_over:
                self._poll.modify(side.other.number, 0)
        elif waited and not side.unsent:
            self._poll.modify(side.number, select.EPOLLIN)
            if side.other.is_over:
                self._close(side)
            else:
                self._poll.modify(side.other.number, select.EPOLLIN)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="address of the server, http://host:port")
    parser.add_argument("--delay-ms", type=float, default=25)
    arguments = parser.parse_args()
    address = urlsplit(arguments.target)
    target = socket.gethostbyname(address.hostname or "127.0.0.1"), address.port or 80
    proxy = Proxy(target, arguments.delay_ms / 1000)
    print(f"{_READY}http://127.0.0.1:{proxy.port}", flush=True)
    proxy.serve()


if __name__ == "__main__":
    main()
