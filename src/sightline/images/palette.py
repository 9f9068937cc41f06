"""Palettes: does every pixel name a colour that is there?"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

from sightline.images.checked import ImageError, refuse_size

_BMP_OFFSET, _BMP_HEADER, _BMP_COLORS = 10, 14, 46
_CORE_HEADER_BYTES, _INFO_HEADER_BYTES = 12, 40  # the older one has no number of colours
_HEADERS_BYTES = (_CORE_HEADER_BYTES, _INFO_HEADER_BYTES, 52, 56, 64, 108, 124)
_PLAIN = 0  # not run-length coded


def with_whole_palette(content: bytes) -> bytes:
    """Return a BMP with a palette as one with all colours that its bits can name, 8 if it is plain.

    Pillow takes a BMP whose palette is black and white for one of 1 bit, and one whose palette
    is the lowest grays for one of 8, whatever it has; and it reads none of 2 bits.

    Args:
        content: The whole file; of any other kind it is returned as it is.

    Raises:
        ImageError: If rows are missing.
    """
    header = int.from_bytes(content[_BMP_HEADER : _BMP_HEADER + 4], "little")
    form = "<HHHH" if header == _CORE_HEADER_BYTES else "<iiHHI"
    is_known = content.startswith(b"BM") and header in _HEADERS_BYTES
    if not is_known or len(content) < _BMP_HEADER + header:
        return content
    width, height, _, bits, *compression = struct.unpack_from(form, content, _BMP_HEADER + 4)
    if bits not in (1, 2, 4, 8):
        return content
    coding = compression[0] if compression else _PLAIN
    start, size = _BMP_HEADER + header, 4 if compression else 3
    colors = min(_named_colors(content) or 2**bits, 2**bits)
    places = range(start, start + size * colors, size)
    palette = b"".join(content[place : place + 3] + b"\0" for place in places)
    pixels = content[int.from_bytes(content[_BMP_OFFSET:_BMP_HEADER], "little") :]
    if coding == _PLAIN:
        pixels, bits = _widen(pixels, width, abs(height), bits), 8
    palette = palette.ljust(4 * 2**bits, b"\0")
    offset = _BMP_HEADER + _INFO_HEADER_BYTES + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    sizes = (_INFO_HEADER_BYTES, width, height, 1, bits, coding, len(pixels), 0, 0, 0, 0)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + pixels


def _widen(pixels: bytes, width: int, height: int, bits: int) -> bytes:
    """Return rows of 8 bits a pixel; a row fills up to 32 bits, before and after."""
    refuse_size(width, height)
    row_bytes = (width * bits + 31) // 32 * 4
    if len(pixels) < row_bytes * height:
        raise ImageError(f"cut short: {len(pixels):,} of {row_bytes * height:,} bytes of pixels")
    if bits == 8:
        return pixels
    rows = np.frombuffer(pixels, np.uint8, row_bytes * height).reshape(height, row_bytes)
    together = 8 // bits
    wide = np.empty((height, row_bytes * together), np.uint8)
    for place in range(together):
        wide[:, place::together] = rows >> (8 - bits * (place + 1)) & (2**bits - 1)
    return np.pad(wide[:, :width], ((0, 0), (0, -width % 4))).tobytes()


def check_palette(image: Image.Image, content: bytes) -> None:
    """Refuse pixels of colours that are not in the palette; Pillow shows them black.

    Args:
        image: A file as Pillow opened it, not yet decoded, or opened `with_whole_palette`.
        content: The whole file.

    Raises:
        ImageError: If there are any.
    """
    if image.mode not in ("P", "PA"):
        return
    named = _named_colors(content) if image.format == "BMP" else 0
    colors = named or len(image.getpalette() or ()) // 3
    indices = np.asarray(image)
    highest = int((indices[:, :, 0] if indices.ndim == 3 else indices).max())
    if highest >= colors:
        raise ImageError(f"damaged: colour {highest} of a palette of {colors}, counted from 0")


def _named_colors(content: bytes) -> int:
    """Return how many colours a BMP says that its palette has; 0 if it does not say."""
    header = int.from_bytes(content[_BMP_HEADER : _BMP_HEADER + 4], "little")
    if header < _INFO_HEADER_BYTES:
        return 0
    return int.from_bytes(content[_BMP_COLORS : _BMP_COLORS + 4], "little")
