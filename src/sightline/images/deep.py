"""Values of more than 8 bits out of PNG and TIFF, all bits of them.

Pillow keeps 16 bits of a gray image alone; of colour and of gray with alpha it drops the lower
byte.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL import TiffImagePlugin as tag

from sightline.images.checked import ImageError

_WHITE_IS_ZERO, _PLANE_BY_PLANE, _UNSIGNED, _SIGNED = 0, 2, 1, 2
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
        image: The file as Pillow opened it, not yet decoded.
        content: The whole file.

    Raises:
        ImageError: If its samples lie in a way that cannot be read whole.
    """
    tags = getattr(image, "tag_v2", {})
    sample_format = tags.get(tag.SAMPLEFORMAT, (_UNSIGNED,))[0]
    rawmode = rawmode_of(image)
    bits = tags.get(tag.BITSPERSAMPLE, (8,))
    if len(bits) > 1 and max(bits) > 8 and tags.get(tag.PLANAR_CONFIGURATION) == _PLANE_BY_PLANE:
        raise ImageError("16-bit colour stored plane by plane: save its colours pixel by pixel")
    if image.mode in _GRAY_MODES:
        white_is_zero = bool(tags) and tags.get(tag.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO
        tile = _first_tile(image)
        is_turned = tile is not None and tile.codec_name == "libtiff" and "B" in rawmode
        # libtiff has the bytes in this machine's order already; Pillow turns them once more.
        values = _decode_as(rawmode.replace("B", "N"), content) if is_turned else np.asarray(image)
        if rawmode == "I;32N" and sample_format == _UNSIGNED:
            values = values.view(np.uint32)
        return DeepImage(
            values,
            f"{bits[0] if tags else 32 if image.mode == 'F' else 16}-bit gray",
            _opacity_of_key(values, image.info.get("transparency")),
            white_is_zero=white_is_zero,
        )
    if image.mode == "L" and sample_format == _SIGNED:
        return DeepImage(np.asarray(image).view(np.int8), "signed 8-bit gray")
    if rawmode == "LA;16B":
        # As four bytes a pixel: gray and alpha, the upper byte first.
        pairs = _decode_as("RGBA", content).view(">u2")
        return DeepImage(pairs[:, :, 0], "16-bit gray", pairs[:, :, 1], opaque=65535)
    if rawmode[:-1] not in ("RGB;16", "RGBX;16", "RGBA;16"):
        return None
    # Asked for the other byte order, Pillow keeps the byte that it otherwise drops.
    order = rawmode[-1]
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    upper, lower = (rawmode[:-1] + end for end in (order, "L" if order == "B" else "B"))
    values = _decode_as(upper, content).astype(np.uint16)
    values <<= 8
    values |= _decode_as(lower, content)
    colours = values[:, :, :3]
    if rawmode.startswith("RGBA"):
        return DeepImage(colours, "16-bit colour", values[:, :, 3], opaque=65535)
    key = image.info.get("transparency")
    return DeepImage(colours, "16-bit colour", _opacity_of_key(colours, key))


def rawmode_of(image: Image.Image) -> str:
    """Return how the samples lie in a file that is opened, not yet decoded, in Pillow's words."""
    tile = _first_tile(image)
    arguments = tile.args if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _first_tile(image: Image.Image) -> ImageFile._Tile | None:
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return tiles[0] if tiles else None


def _decode_as(rawmode: str, content: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(content), formats=("PNG", "TIFF")) as image:
        image.tile = [
            tile._replace(
                args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode
            )
            for tile in image.tile
        ]
        return np.asarray(image)


def _opacity_of_key(
    values: NDArray[np.generic], key: int | tuple[int, ...] | bytes | None
) -> NDArray[np.uint8] | None:
    """Return 0 where a pixel has the one value that PNG declares transparent, else 1."""
    if key is None or isinstance(key, bytes):
        return None
    other: NDArray[np.bool_] = values != np.asarray(key)
    return np.asarray(other.any(axis=-1) if values.ndim == 3 else other, dtype=np.uint8)
