"""PNG: are all its rows and its palette there, and do its checksums fit?"""

from __future__ import annotations

import struct
import zlib

from sightline.images.checked import ImageError
from sightline.images.headers import PNG_START
from sightline.images.inflating import count_inflated

_PALETTE = 3  # among the colour types


def png_depth(content: bytes) -> int:
    """Return the bits of a sample."""
    return content[24]


def check_png(content: bytes) -> None:
    """Refuse a PNG whose rows or palette are not there; Pillow reads it and leaves them black.

    Raises:
        ImageError: If rows or the palette are missing, the file is cut short, or a checksum does
            not fit.
    """
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if color == _PALETTE and not _chunks(content, b"PLTE"):
        raise ImageError("damaged: the palette is missing")
    channels = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}[color]
    passes = [(width, height)]
    if interlaced:
        grid = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
        grid += ((1, 0, 2, 2), (0, 1, 1, 2))  # type: ignore[assignment]
        passes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in grid]
    expected = sum(h * (1 + (w * depth * channels + 7) // 8) for w, h in passes if w and h)
    found = count_inflated(zlib.decompressobj(), _chunks(content, b"IDAT"), expected)
    if found < expected:
        raise ImageError(f"rows are missing: {found:,} of {expected:,} bytes of pixels")


def _chunks(content: bytes, wanted: bytes) -> list[memoryview]:
    found, view = [], memoryview(content)
    place = len(PNG_START)
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        end = place + 12 + size
        if end > len(content):
            raise ImageError("cut short")
        if kind == wanted:
            body = view[place + 8 : end - 4]
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(content[end - 4 : end], "big"):
                raise ImageError("damaged: a checksum inside the PNG does not fit")
            found.append(body)
        if kind == b"IEND":
            break
        place = end
    return found
