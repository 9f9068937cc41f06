"""TIFFs of more than 8 bits a value, in every type, byte order and arrangement.

Pillow has modes for few of them, and cuts colour to 8 bits. It decodes the bytes all the same when
the file says that it is 8-bit gray, so wide that every byte is a pixel.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin as tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from sightline.images.checked import MAX_MEGAPIXELS, ImageError, refuse_size
from sightline.images.deep import DeepImage
from sightline.images.tiff import (
    ALPHA,
    BLACK_IS_ZERO,
    JPEG,
    PREDICTING,
    RGB,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    check_tiff,
)

_NO_PREDICTOR, _DIFFERENCES, _BYTE_DIFFERENCES = 1, 2, 3
_KINDS = {1: "u", 2: "i", 3: "f"}  # of sample formats
_TYPES = ("i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
_MOST_BYTES = 8 * MAX_MEGAPIXELS * 1_000_000  # of all values, which are held some times over


def read_deep_tiff(tags: ImageFileDirectory_v2, content: bytes) -> DeepImage | None:
    """Read gray or colour of more than 8 bits a value, or of 8 with a sign; None if it is neither.

    Args:
        tags: Those of its only picture.
        content: The whole file.

    Raises:
        ImageError: If a part is missing or damaged, or it holds more than 400 MB of values.
    """
    kind, photometric = _type_of(tags), tags.get(tag.PHOTOMETRIC_INTERPRETATION)
    is_jpeg = tags.get(tag.COMPRESSION) == JPEG
    if not kind or photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or is_jpeg:
        return None
    samples, colors = _one(tags, tag.SAMPLESPERPIXEL), 3 if photometric == RGB else 1
    extra = tags.get(tag.EXTRASAMPLES, (ALPHA,) if colors == 3 else ())[: samples - colors]
    has_alpha = extra == (ALPHA,) and kind.startswith("u")
    if samples != colors + len(extra) or not (has_alpha or extra in ((), (UNSPECIFIED,))):
        return None
    width, height, bits = tags[tag.IMAGEWIDTH], tags[tag.IMAGELENGTH], 8 * np.dtype(kind).itemsize
    refuse_size(width, height)
    if width * height * samples * bits // 8 > _MOST_BYTES:
        raise ImageError(f"more than {_MOST_BYTES // 1_000_000} MB of values: scale it down")
    check_tiff(tags, content)
    values = _read_values(tags, content, np.dtype(kind), samples)
    name = f"{bits}-bit {'colour' if colors == 3 else 'gray'}"
    return DeepImage(
        values[:, :, :3] if colors == 3 else values[:, :, 0],
        f"signed {name}" if bits == 8 else name,
        values[:, :, colors] if has_alpha else None,
        opaque=2**bits - 1,
        white_is_zero=photometric == WHITE_IS_ZERO,
    )


class _Bytes(TiffImageFile):
    """A TIFF whose bytes are pixels for Pillow, which refuses more than 179 million of them."""

    def load_prepare(self) -> None:
        # As TiffImageFile does it, but for that limit: ours has been checked.
        super(TiffImageFile, self).load_prepare()


def _type_of(tags: ImageFileDirectory_v2) -> str | None:
    bits = set(tags.get(tag.BITSPERSAMPLE, (1,)))
    formats = set(tags.get(tag.SAMPLEFORMAT, (1,)))
    if len(bits) != 1 or len(formats) != 1:
        return None
    kind = f"{_KINDS.get(formats.pop())}{bits.pop() / 8:g}"
    return kind if kind in _TYPES else None


def _read_values(
    tags: ImageFileDirectory_v2, content: bytes, kind: np.dtype[Any], samples: int
) -> NDArray[Any]:
    """Return the values as they are stored, shape (height, width, samples)."""
    width, height = tags[tag.IMAGEWIDTH], tags[tag.IMAGELENGTH]
    planes = samples if _one(tags, tag.PLANAR_CONFIGURATION) == 2 else 1
    together = samples // planes  # values that lie side by side
    part_width = tags.get(tag.TILEWIDTH, width) if tag.TILEOFFSETS in tags else width
    parts_across = -(-width // part_width)
    unit = together * kind.itemsize
    shape = (height, parts_across, part_width, together)
    kind = kind.newbyteorder("<" if content.startswith(b"II") else ">")
    values = []
    for plane in range(planes):
        whole = _say_bytes(tags, content, plane, planes, parts_across * part_width, unit)
        with _Bytes(io.BytesIO(whole)) as image:
            stored = np.asarray(image)
        stored = _undo_predictor(_predictor_of(tags, kind), stored, shape, kind)
        values.append(stored.reshape(height, -1, together)[:, :width])
    return values[0] if planes == 1 else np.concatenate(values, axis=2)


def _say_bytes(
    tags: ImageFileDirectory_v2, content: bytes, plane: int, planes: int, width: int, unit: int
) -> bytes:
    """Return the file with a directory at its end, by which a plane is 8-bit gray."""
    fields: dict[int, Sequence[int]] = {
        tag.IMAGEWIDTH: [width * unit],
        tag.BITSPERSAMPLE: [8],
        tag.PHOTOMETRIC_INTERPRETATION: [BLACK_IS_ZERO],
    }
    kept = (tag.IMAGELENGTH, tag.COMPRESSION, tag.FILLORDER, tag.ROWSPERSTRIP, tag.TILELENGTH)
    fields |= {number: [tags[number]] for number in kept if number in tags}
    tables = (tag.STRIPOFFSETS, tag.STRIPBYTECOUNTS)
    if tag.TILEOFFSETS in tags:
        fields[tag.TILEWIDTH] = [tags[tag.TILEWIDTH] * unit]
        tables = (tag.TILEOFFSETS, tag.TILEBYTECOUNTS)
    for number in tables:
        if parts := tags.get(number, ()):
            each = len(parts) // planes
            fields[number] = parts[plane * each : (plane + 1) * each]
    order = "<" if content.startswith(b"II") else ">"
    start = len(content) + len(content) % 2
    beyond = start + 2 + 12 * len(fields) + 4
    directory, values = struct.pack(f"{order}H", len(fields)), b""
    for number, field in sorted(fields.items()):
        where = field[0] if len(field) == 1 else beyond + len(values)
        directory += struct.pack(f"{order}HHII", number, 4, len(field), where)
        if len(field) > 1:
            values += struct.pack(f"{order}{len(field)}I", *field)
    head = content[:2] + struct.pack(f"{order}HI", 42, start) + content[8:]
    return head + bytes(len(content) % 2) + directory + bytes(4) + values


def _predictor_of(tags: ImageFileDirectory_v2, kind: np.dtype[Any]) -> int:
    predictor = _one(tags, tag.PREDICTOR)
    if _one(tags, tag.COMPRESSION) not in PREDICTING:
        return _NO_PREDICTOR
    allowed = (_NO_PREDICTOR, _DIFFERENCES, *([_BYTE_DIFFERENCES] if kind.kind == "f" else []))
    if predictor not in allowed:
        raise ImageError(f"TIFF with a predictor of {predictor}: save it without one")
    return predictor


def _undo_predictor(
    predictor: int, stored: NDArray[np.uint8], shape: tuple[int, ...], kind: np.dtype[Any]
) -> NDArray[Any]:
    """Add up what is stored as differences of neighbours (TIFF 6.0, section 14, and its note 3)."""
    height, parts, part_width, together = shape
    if predictor == _BYTE_DIFFERENCES:
        # Of each row the highest bytes of all values first, then the next ones.
        sums = np.cumsum(stored.reshape(height, parts, -1, together), axis=2, dtype=np.uint8)
        planes = sums.reshape(height, parts, kind.itemsize, part_width * together)
        return np.ascontiguousarray(planes.swapaxes(2, 3)).view(kind.newbyteorder(">"))
    values = stored.view(kind)
    if predictor == _NO_PREDICTOR:
        return values
    whole = kind.newbyteorder("=").str.replace(kind.kind, "u")
    differences = values.view(kind.str.replace(kind.kind, "u")).reshape(shape)
    return np.cumsum(differences, axis=2, dtype=whole).view(kind.newbyteorder("="))


def _one(tags: ImageFileDirectory_v2, number: int) -> int:
    return int(tags.get(number, 1))
