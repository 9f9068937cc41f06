"""PNG files for tests, chunk by chunk: also such as no library writes."""

from __future__ import annotations

import struct
import zlib


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width, height, rows, depth=8, color=0, palette=b"", key=b"", interlaced=0):
    """Return a file of these rows, each after the number of its filter."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    for kind, body in ((b"PLTE", palette), (b"tRNS", key)):
        content += png_chunk(kind, body) if body else b""
    return content + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
