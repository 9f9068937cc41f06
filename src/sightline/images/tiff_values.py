"""TIFFs of more than 8 bits a value, in every type, byte order and arrangement.

Pillow has modes for few of them, and cuts colour to 8 bits. It decodes the bytes all the same when
the file says that it is 8-bit gray, so wide that every byte is a pixel.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin as tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from sightline.images.checked import MAX_MEGAPIXELS, ImageError, refuse_size
from sightline.images.deep import DeepImage, bands_of
from sightline.images.tiff import (
    ALPHA,
    BLACK_IS_ZERO,
    JPEG,
    NONE,
    PREDICTING,
    RGB,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    check_tiff,
    parts_of,
)

_NO_PREDICTOR, _DIFFERENCES, _BYTE_DIFFERENCES = 1, 2, 3
_KINDS = {1: "u", 2: "i", 3: "f"}  # of sample formats
_TYPES = ("i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
_AT_ONCE_BYTES = 1 << 20
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
    padded_width, padded_height = width, height  # libtiff decodes whole tiles
    if tag.TILEOFFSETS in tags:
        tile_width, tile_height = tags[tag.TILEWIDTH], tags[tag.TILELENGTH]
        refuse_size(tile_width, tile_height)  # neither is 0
        padded_width += -width % tile_width
        padded_height += -height % tile_height
    if padded_width * padded_height * samples * bits // 8 > _MOST_BYTES:
        raise ImageError(f"more than {_MOST_BYTES // 1_000_000} MB of values: scale it down")
    check_tiff(tags, content)
    planes = _read_values(tags, content, np.dtype(kind), samples)
    colours = planes[0] if len(planes) < colors else np.concatenate(planes[:colors], axis=2)
    name = f"{bits}-bit {'colour' if colors == 3 else 'gray'}"
    return DeepImage(
        colours[:, :, :3] if colors == 3 else colours[:, :, 0],
        f"signed {name}" if bits == 8 else name,
        planes[-1][:, :, -1] if has_alpha else None,
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
) -> list[NDArray[Any]]:
    """Return the values, shape (height, width, samples), or (height, width, 1) of each plane."""
    width, height = tags[tag.IMAGEWIDTH], tags[tag.IMAGELENGTH]
    planes = samples if _one(tags, tag.PLANAR_CONFIGURATION) == 2 else 1
    together = samples // planes  # values that lie side by side
    unit = together * kind.itemsize
    predictor = _predictor_of(tags, kind)
    stored_kind = kind.newbyteorder("<" if content.startswith(b"II") else ">")
    part_width = tags[tag.TILEWIDTH] if tag.TILEOFFSETS in tags else width
    across = -(-width // part_width)
    values = [np.empty((height, width, together), kind) for _ in range(planes)]
    bands = _decode_bands(tags, content, across, part_width * unit)
    for plane in values:
        top = 0
        while top < height:
            stored = next(bands)
            shape = (len(stored), across, part_width, together)
            undone = _undo_predictor(predictor, stored, shape, stored_kind)
            plane[top : top + len(stored)] = undone.reshape(len(stored), -1, together)[:, :width]
            top += len(stored)
    return values


def _decode_bands(
    tags: ImageFileDirectory_v2, content: bytes, across: int, part_bytes: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of one plane after the other, some rows at a time.

    Args:
        tags: Those of the file.
        content: The whole file.
        across: How many strips or tiles lie side by side.
        part_bytes: The width of each.
    """
    length, at_once = tags[tag.IMAGELENGTH], max(1, _AT_ONCE_BYTES // (across * part_bytes))
    each = int(tags.get(tag.TILELENGTH, tags.get(tag.ROWSPERSTRIP, length)))
    parts, top = _pieces(tags, content, at_once, part_bytes), 0
    for first in parts:
        # Several at a time, of one plane, all but the last of which have as many rows.
        number = min(max(1, at_once // each), -(-(length - top) // each))
        some = [first, *itertools.islice(parts, across * number - 1)]
        rows = sum(rows for _, rows in some[::across])
        with _Bytes(io.BytesIO(_say_bytes(tags, some, rows, across, part_bytes))) as image:
            for place, band in bands_of(image):
                seen = length - top - place.start  # tiles may reach beyond the picture
                if seen > 0:
                    yield band[:seen]
        top = (top + rows) * (top + rows < length)


def _pieces(
    tags: ImageFileDirectory_v2, content: bytes, at_once: int, row_bytes: int
) -> Iterator[tuple[memoryview, int]]:
    """Yield strips or tiles and their rows; a long strip as several, where it is not compressed."""
    is_plain = _one(tags, tag.COMPRESSION) == NONE and tag.TILEOFFSETS not in tags
    for part, _, rows in parts_of(tags, content):
        height = at_once if is_plain and rows > at_once else rows
        for top in range(0, rows, height):
            end = (top + height) * row_bytes if height < rows else len(part)
            yield part[top * row_bytes : end], min(height, rows - top)


def _say_bytes(
    tags: ImageFileDirectory_v2,
    parts: Sequence[tuple[memoryview, int]],
    rows: int,
    across: int,
    part_bytes: int,
) -> bytes:
    """Return a TIFF of these strips or tiles alone, by which each of their bytes is 8-bit gray."""
    is_tiled = tag.TILEOFFSETS in tags
    offsets, sizes = tag.STRIPOFFSETS, tag.STRIPBYTECOUNTS
    fields: dict[int, Sequence[int]] = {
        tag.IMAGEWIDTH: [across * part_bytes],
        tag.IMAGELENGTH: [rows],
        tag.BITSPERSAMPLE: [8],
        tag.COMPRESSION: [_one(tags, tag.COMPRESSION)],
        tag.PHOTOMETRIC_INTERPRETATION: [BLACK_IS_ZERO],
        tag.FILLORDER: [_one(tags, tag.FILLORDER)],
    }
    if is_tiled:
        offsets, sizes = tag.TILEOFFSETS, tag.TILEBYTECOUNTS
        fields |= {tag.TILEWIDTH: [part_bytes], tag.TILELENGTH: [parts[0][1]]}
    else:
        fields[tag.ROWSPERSTRIP] = [parts[0][1]]
    fields[sizes] = [len(part) for part, _ in parts]
    beyond = 8 + 2 + 12 * (len(fields) + 1) + 4
    place = beyond + (8 * len(parts) if len(parts) > 1 else 0)
    fields[offsets] = list(itertools.accumulate(fields[sizes][:-1], initial=place))
    directory, values = struct.pack("<H", len(fields)), b""
    for number, field in sorted(fields.items()):
        where = field[0] if len(field) == 1 else beyond + len(values)
        directory += struct.pack("<HHII", number, 4, len(field), where)
        if len(field) > 1:
            values += struct.pack(f"<{len(field)}I", *field)
    head = struct.pack("<2sHI", b"II", 42, 8)
    return b"".join([head, directory, bytes(4), values, *(part for part, _ in parts)])


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
