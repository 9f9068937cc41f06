"""Values of more than 8 bits, all bits of them: what they are, and how they come out of PNG.

Pillow keeps 16 bits of a gray image alone; of colour and of gray with alpha it drops the lower
byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_AT_ONCE = 1 << 20  # pixels
_GRAY_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


@dataclass(frozen=True)
class DeepImage:
    """Values as they are stored: (height, width) gray, or (height, width, 3) colour.

    `opacity` has shape (height, width), from 0 to `opaque`, or is None where nothing is
    transparent. `kind` is their name for people, such as "16-bit gray".
    """

    values: NDArray[np.generic]
    kind: str
    opacity: NDArray[np.unsignedinteger] | None = None
    opaque: int = 1
    white_is_zero: bool = False


def read_deep(image: Image.Image, content: bytes) -> DeepImage | None:
    """Read an image of more than 8 bits a sample; None if it has no more.

    Args:
        image: The file as Pillow opened it, not yet decoded; of TIFF, one of 12 bits.
        content: The whole file.
    """
    rawmode = rawmode_of(image)
    if image.mode in _GRAY_MODES:
        values = np.asarray(image)
        bits = 32 if image.mode == "F" else 12 if rawmode == "I;12" else 16
        opacity = _opacity_of_key(values, image.info.get("transparency"))
        return DeepImage(values, f"{bits}-bit gray", opacity)
    if rawmode == "LA;16B":
        # As four bytes a pixel: gray and alpha, the upper byte first.
        bands = [band.view(">u2") for _, band in _decode_as("RGBA", content)]
        pairs = np.concatenate(bands)
        return DeepImage(pairs[:, :, 0], "16-bit gray", pairs[:, :, 1], opaque=65535)
    if rawmode not in ("RGB;16B", "RGBA;16B"):
        return None
    colours = np.zeros((image.height, image.width, 3), np.uint16)
    opacity = np.zeros(colours.shape[:2], np.uint16) if rawmode.startswith("RGBA") else None
    # Asked for the other byte order, Pillow keeps the byte that it otherwise drops.
    for shift, order in ((8, rawmode), (0, f"{rawmode[:-1]}L")):
        for rows, band in _decode_as(order, content):
            colours[rows] |= band[:, :, :3].astype(np.uint16) << shift
            if opacity is not None:
                opacity[rows] |= band[:, :, 3].astype(np.uint16) << shift
    if opacity is not None:
        return DeepImage(colours, "16-bit colour", opacity, opaque=65535)
    key = image.info.get("transparency")
    return DeepImage(colours, "16-bit colour", _opacity_of_key(colours, key))


def rawmode_of(image: Image.Image) -> str:
    """Return how the samples lie in a file that is opened, not yet decoded, in Pillow's words."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def bands_of(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield which rows, and their values: of all rows at once, Pillow makes two copies."""
    height = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def _decode_as(rawmode: str, content: bytes) -> Iterator[tuple[slice, NDArray[Any]]]:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.tile = [
            tile._replace(
                args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode
            )
            for tile in image.tile
        ]
        yield from bands_of(image)


def _opacity_of_key(
    values: NDArray[np.generic], key: int | tuple[int, ...] | bytes | None
) -> NDArray[np.uint8] | None:
    """Return 0 where a pixel has the one value that PNG declares transparent, else 1."""
    if key is None or isinstance(key, bytes):
        return None
    other: NDArray[np.bool_] = values != np.asarray(key)
    return np.asarray(other.any(axis=-1) if values.ndim == 3 else other, dtype=np.uint8)
