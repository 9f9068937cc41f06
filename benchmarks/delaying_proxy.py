"""A TCP proxy that makes a server on this machine look far away.

It forwards bytes as they are, and holds the first bytes of each response back. What follows them
is not slowed, so it adds latency and takes no bandwidth.

python benchmarks/delaying_proxy.py --target http://127.0.0.1:9000 --delay-ms 25
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

_READY = "listening on "


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


class Side(asyncio.Protocol):
    """One end of a forwarded connection; what it receives goes to its `other` end."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, and send what came before it was there."""
        self.transport = cast(asyncio.Transport, transport)
        for data in self.waiting:
            self.transport.write(data)
        self.waiting.clear()

    def send(self, data: bytes) -> None:
        """Send now, or as soon as the connection is made."""
        if self.transport:
            self.transport.write(data)
        else:
            self.waiting.append(data)

    def connection_lost(self, _error: Exception | None) -> None:
        """End the other connection, too."""
        if self.other and self.other.transport:
            self.other.transport.close()

    def pause_writing(self) -> None:
        """Stop reading what this end is too slow for."""
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        if self.other and self.other.transport:
            self.other.transport.resume_reading()


class ClientSide(Side):
    """The end that asks."""

    def __init__(self, host: str, port: int, delay_seconds: float) -> None:
        super().__init__()
        self._address = (host, port)
        self._delay_seconds = delay_seconds
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the connection to the server."""
        super().connection_made(transport)
        server = ServerSide(self._delay_seconds)
        self.other, server.other = server, self
        self._connecting = asyncio.ensure_future(self._connect(server))

    def data_received(self, data: bytes) -> None:
        """Forward a part of a request; what comes back next is a response's beginning."""
        server = cast(ServerSide, self.other)
        server.is_asked = True
        server.send(data)

    async def _connect(self, server: ServerSide) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self._address)
        except OSError:
            assert self.transport
            self.transport.close()


class ServerSide(Side):
    """The end that answers, late."""

    def __init__(self, delay_seconds: float) -> None:
        super().__init__()
        self.is_asked = False
        self._delay_seconds = delay_seconds
        self._held: list[bytes] | None = None
        self._is_over = False

    def data_received(self, data: bytes) -> None:
        """Forward a part of a response, or hold it if it is the beginning of one."""
        assert self.other
        if self._held is not None:
            self._held.append(data)
        elif self.is_asked and self._delay_seconds:
            self._held = [data]
            asyncio.get_running_loop().call_later(self._delay_seconds, self._release)
        else:
            self.other.send(data)
        self.is_asked = False

    def connection_lost(self, error: Exception | None) -> None:
        """End the client's connection, too, when it has what is held for it."""
        self._is_over = True
        if self._held is None:
            super().connection_lost(error)

    def _release(self) -> None:
        assert self.other
        held, self._held = self._held or [], None
        self.other.send(b"".join(held))
        if self._is_over:
            super().connection_lost(None)


async def serve(target: str, delay_seconds: float) -> None:
    """Forward connections until the process ends."""
    address = urlsplit(target)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    server = await asyncio.get_running_loop().create_server(
        lambda: ClientSide(host, port, delay_seconds), "127.0.0.1", 0
    )
    print(f"{_READY}http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="address of the server, http://host:port")
    parser.add_argument("--delay-ms", type=float, default=25)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.target, arguments.delay_ms / 1000))


if __name__ == "__main__":
    main()
