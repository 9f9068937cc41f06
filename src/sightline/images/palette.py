"""Palettes: does every pixel name a colour that is there?"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sightline.images.checked import ImageError

_BMP_OFFSET, _BMP_HEADER, _BMP_BITS, _BMP_COLORS = 10, 14, 28, 46
_INFO_HEADER_BYTES = 40  # the older and shorter header has no number of colours


def open_with_whole_palette(image: Image.Image, content: bytes) -> Image.Image:
    """Return an image with a palette as it is, but a BMP with one for all that its bits can name.

    Pillow takes a BMP whose palette is black and white for one of 1 bit, whatever it has.

    Args:
        image: The file as Pillow opened it, not yet decoded.
        content: The whole file.
    """
    colors = _named_colors(image, content)
    bits = int.from_bytes(content[_BMP_BITS : _BMP_BITS + 2], "little")
    if colors is None or bits > 8 or colors >= 2**bits:
        return image
    end = _BMP_HEADER + int.from_bytes(content[_BMP_HEADER : _BMP_HEADER + 4], "little")
    end += 4 * colors
    missing = 4 * (2**bits - colors)
    offset = int.from_bytes(content[_BMP_OFFSET:_BMP_HEADER], "little") + missing
    whole = (
        content[:_BMP_OFFSET]
        + offset.to_bytes(4, "little")
        + content[_BMP_HEADER:_BMP_COLORS]
        + bytes(4)
        + content[_BMP_COLORS + 4 : end]
        + bytes(missing)
        + content[end:]
    )
    return Image.open(io.BytesIO(whole), formats=("BMP",))


def check_palette(image: Image.Image, content: bytes) -> None:
    """Refuse pixels of colours that are not in the palette; Pillow shows them black.

    Args:
        image: A file as `open_with_whole_palette` returns it.
        content: The whole file.

    Raises:
        ImageError: If there are any.
    """
    if image.mode not in ("P", "PA"):
        return
    named = _named_colors(image, content)
    colors = len(image.getpalette() or ()) // 3 if named is None else named
    indices = np.asarray(image)
    highest = int((indices[:, :, 0] if indices.ndim == 3 else indices).max())
    if highest >= colors:
        raise ImageError(f"damaged: colour {highest} of a palette of {colors}, counted from 0")


def _named_colors(image: Image.Image, content: bytes) -> int | None:
    header = int.from_bytes(content[_BMP_HEADER : _BMP_HEADER + 4], "little")
    if image.format != "BMP" or header < _INFO_HEADER_BYTES:
        return None
    return int.from_bytes(content[_BMP_COLORS : _BMP_COLORS + 4], "little") or None
