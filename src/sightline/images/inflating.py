"""How much compressed bytes inflate to, without keeping it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_SLICE_BYTES = 1 << 16
_AT_ONCE_BYTES = 1 << 20


def count_inflated(stream: Any, parts: Iterable[bytes | memoryview], most_bytes: int) -> int:
    """Return how many bytes come out, counted to the end or until they are more than `most_bytes`.

    Args:
        stream: A decompressor of zlib or lzma; whether it found its end it tells afterwards.
        parts: The compressed bytes, one after the other.
        most_bytes: From where on it does not matter how many there are.

    Raises:
        zlib.error: If they are damaged; of lzma, LZMAError.
    """
    found = 0
    for part in parts:
        # In slices: zlib copies all that it has not yet taken whenever it gives something.
        for start in range(0, len(part), _SLICE_BYTES):
            rest: bytes | memoryview = memoryview(part)[start : start + _SLICE_BYTES]
            given = _AT_ONCE_BYTES
            while given == _AT_ONCE_BYTES and not stream.eof:  # less: it needs more to go on
                given = len(stream.decompress(rest, _AT_ONCE_BYTES))
                rest = getattr(stream, "unconsumed_tail", b"")  # lzma keeps that itself
                found += given
                if found > most_bytes:
                    return found
    return found
