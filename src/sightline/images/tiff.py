"""TIFF: its tags, and is every strip and tile whole?"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import TiffImagePlugin as tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sightline.images.checked import SEVERAL_FRAMES, ImageError, refuse_size
from sightline.images.headers import read_jpeg_header
from sightline.images.inflating import count_inflated

# Of files above 4 GB, or that might become it.
_BIG_START, _BIG_ENDIAN_START = b"II+\0", b"MM\0+"
_STARTS = (b"II*\0", b"MM\0*", _BIG_START)
_NEW_SUBFILE_TYPE, _IS_REDUCED = 254, 1
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, _CMYK, _YCBCR = 0, 1, 2, 5, 6  # photometric interpretations
UNSPECIFIED, _PREMULTIPLIED, ALPHA = 0, 1, 2  # among extra samples
_IMAGEJ_STACK = re.compile(r"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)
_LOWEST_BIT_FIRST = 2  # among fill orders
_TURNED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MOST_TOLD = 5  # numbers of a tag
_MOST_PADDING_BYTES = 1 << 26  # some writers fill the last strip up; only a bomb has more

JPEG = 7
_DEFLATE = (8, 32946)
_LZMA = 34925
NONE, _LZW, _PACKBITS = 1, 5, 32773
PREDICTING = (_LZW, *_DEFLATE, _LZMA)  # libtiff ignores a predictor in other compressions
_KNOWN = (NONE, _LZW, JPEG, *_DEFLATE, _PACKBITS, _LZMA)
_HIDING = {
    **{2: "CCITT RLE", 3: "CCITT G3", 4: "CCITT G4", 6: "JPEG of the old kind"},
    **{50000: "zstd", 50001: "WebP"},
}
_UNREAD = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **{34887: "LERC", 34933: "PNG"},
}
_EXTRA = {
    UNSPECIFIED: "without a meaning",
    _PREMULTIPLIED: "of premultiplied alpha",
    ALPHA: "of alpha",
}


def read_tags(content: bytes) -> ImageFileDirectory_v2 | None:
    """Return the tags of a TIFF's first picture; None of what is no TIFF, or has no size.

    Raises:
        ImageError: If it is a BigTIFF of the byte order that Pillow does not know.
    """
    if content.startswith(_BIG_ENDIAN_START):
        raise ImageError(
            "a BigTIFF in big-endian order: save it in little-endian order, or as TIFF"
        )
    if not content.startswith(_STARTS):
        return None
    stream = io.BytesIO(content)
    try:
        tags = ImageFileDirectory_v2(stream.read(16 if content.startswith(_BIG_START) else 8))
        stream.seek(tags.next)
        tags.load(stream)
    except Exception:  # Pillow raises almost anything on damaged bytes
        return None
    return tags if tag.IMAGEWIDTH in tags and tag.IMAGELENGTH in tags else None


def name_kind(tags: ImageFileDirectory_v2) -> str:
    """Return what tells a kind of TIFF that is not read."""
    if tags.get(tag.COMPRESSION, NONE) not in _KNOWN:
        return _name_compression(tags)
    extra = tags.get(tag.EXTRASAMPLES, ())
    beside = ", ".join(_EXTRA.get(kind, "of an unknown kind") for kind in extra[:_MOST_TOLD])
    samples = _told(tags, tag.SAMPLESPERPIXEL)
    return (
        f"TIFF of {samples} sample{'' if samples == '1' else 's'} of "
        f"{_told(tags, tag.BITSPERSAMPLE)} bits, sample format {_told(tags, tag.SAMPLEFORMAT)}, "
        f"photometric interpretation {_told(tags, tag.PHOTOMETRIC_INTERPRETATION, 'missing')}, "
        f"fill order {_told(tags, tag.FILLORDER)}{beside and ', with a sample '}{beside}, which is "
        f"not read: save it with 8 or 16 bits, gray or RGB{beside and ', without that sample'}"
    )


def _name_compression(tags: Mapping[int, Any]) -> str:
    compression: Any = tags.get(tag.COMPRESSION)
    why = "where damage does not show" if compression in _HIDING else "which is not read"
    method = f"method {_told(tags, tag.COMPRESSION)}"
    name = _HIDING.get(compression) or _UNREAD.get(compression, method)
    return f"TIFF compressed with {name}, {why}: save it with LZW or deflate"


def _told(tags: Mapping[int, Any], number: int, default: int | str = 1) -> str:
    """Return a tag's numbers, fit to be quoted: the first few, and no text in their place."""
    value = tags.get(number, default)
    values = value if isinstance(value, tuple) else (value,)
    if value != default and not all(isinstance(one, int) for one in values):
        return "unreadable"
    return "/".join(map(str, values[:_MOST_TOLD])) + "/…" * (len(values) > _MOST_TOLD)


def check_tiff(tags: ImageFileDirectory_v2, content: bytes) -> None:
    """Refuse a TIFF of which parts are not there or damaged; libtiff fills them and only warns.

    Args:
        tags: Those of its first picture.
        content: The whole file.

    Raises:
        ImageError: If it has more pictures, if a strip or tile is cut short, or does not fit its
            checksum, if tiles are absurdly large, or if its compression is one in which damage
            does not show.
    """
    _quiet_libtiff()
    _refuse_other_pictures(tags)
    # libtiff allocates whole tiles, however small the image is.
    refuse_size(tags.get(tag.TILEWIDTH, 1), tags.get(tag.TILELENGTH, 1))
    compression = tags.get(tag.COMPRESSION, 1)
    if compression not in _KNOWN:
        raise ImageError(_name_compression(tags))
    _refuse_misread(tags, compression)
    for number, (part, width, rows) in enumerate(parts_of(tags, content), start=1):
        expected = _bytes_of(tags, width, rows)
        if tags.get(tag.FILLORDER) == _LOWEST_BIT_FIRST and compression != JPEG:
            part = memoryview(bytes(part).translate(_TURNED_BITS))
        if compression == JPEG:
            is_whole = _is_whole_jpeg(tags.get(tag.JPEGTABLES, b""), bytes(part), width, rows)
        elif compression in (*_DEFLATE, _LZMA):
            is_whole = _is_whole_stream(compression, part, expected)
        elif compression == NONE:
            is_whole = len(part) >= expected
        else:
            is_whole = True  # no checksum; libtiff finds what is cut short
        if not is_whole:
            raise ImageError(f"damaged or cut short: part {number} of the TIFF is not whole")


def _refuse_other_pictures(tags: ImageFileDirectory_v2) -> None:
    # A page may name itself as the next one; ImageJ may write many pictures as one page.
    stack = _IMAGEJ_STACK.match(str(tags.get(tag.IMAGEDESCRIPTION, "")))
    if tags.next not in (0, tags.offset) or (stack and int(stack[1]) > 1):
        raise ImageError(SEVERAL_FRAMES)
    if tag.SUBIFD in tags and tags.get(_NEW_SUBFILE_TYPE, 0) & _IS_REDUCED:
        raise ImageError(
            "a preview of the picture that lies behind it (a camera's raw file): save that one"
        )


def _refuse_misread(tags: ImageFileDirectory_v2, compression: int) -> None:
    """Refuse what Pillow would show as another picture, or a part of it alone."""
    if tag.PHOTOMETRIC_INTERPRETATION not in tags:
        raise ImageError("TIFF that does not say whether 0 is black (PhotometricInterpretation)")
    if 0 < max(tags.get(tag.COLORMAP, (0,))) < 256:  # of old writers; Pillow would show it black
        raise ImageError("TIFF whose palette has values of 8 bits instead of 16: save it as RGB")
    photometric = tags[tag.PHOTOMETRIC_INTERPRETATION]
    # Pillow has libtiff turn these into RGB, and then asks for no errors.
    if photometric == _YCBCR and compression in (_LZW, _PACKBITS):
        raise ImageError("TIFF of YCbCr, where damage does not show: save it as RGB")
    if photometric == _YCBCR and compression == NONE and _subsampling(tags) != (1, 1):
        raise ImageError("uncompressed TIFF of YCbCr with colours of fewer pixels: save it as RGB")
    samples, extra = tags.get(tag.SAMPLESPERPIXEL, 1), tags.get(tag.EXTRASAMPLES, ())
    if photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and UNSPECIFIED in extra:
        raise ImageError(
            f"TIFF of gray with {_told(tags, tag.SAMPLESPERPIXEL)} samples a pixel, of which "
            "only the first has a meaning: save each as one file"
        )
    bits = tags.get(tag.BITSPERSAMPLE, (1,))[0]
    kinds = {
        "gray and alpha": bits == 8 and samples == 2,
        "premultiplied colour": _PREMULTIPLIED in extra,
        "16-bit CMYK": bits > 8 and photometric == _CMYK,
    }
    if tags.get(tag.PLANAR_CONFIGURATION) == 2 and any(kinds.values()):
        kind = next(name for name, is_it in kinds.items() if is_it)
        raise ImageError(f"TIFF of {kind} plane by plane: save it pixel by pixel")


@functools.cache
def _quiet_libtiff() -> None:
    """Keep Pillow's libtiff from printing lines that name no file; Pillow raises what matters.

    Where it cannot be found among the libraries of this process, the lines are printed.
    """
    with contextlib.suppress(OSError, AttributeError):
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        for path in set(re.findall(r"\S+/libtiff[^/\s]*\.so[^/\s]*$", loaded, re.MULTILINE)):
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def parts_of(tags: Mapping[int, Any], content: bytes) -> Iterator[tuple[memoryview, int, int]]:
    """Yield each strip or tile, its width and its rows.

    Raises:
        ImageError: If there are fewer than the picture needs, or one lies outside the file.
    """
    view, tiled = memoryview(content), tag.TILEOFFSETS in tags
    length = tags[tag.IMAGELENGTH]
    if tiled:
        width, rows = tags[tag.TILEWIDTH], tags[tag.TILELENGTH]
    else:
        width, rows = tags[tag.IMAGEWIDTH], min(tags.get(tag.ROWSPERSTRIP, length), length)
    offsets = tags.get(tag.TILEOFFSETS if tiled else tag.STRIPOFFSETS, ())
    sizes = tags.get(tag.TILEBYTECOUNTS if tiled else tag.STRIPBYTECOUNTS, ())
    is_plain = tags.get(tag.COMPRESSION, 1) == NONE
    if not sizes and is_plain:  # some writers leave out what follows from the rest
        sizes = (_bytes_of(tags, width, rows),) * len(offsets)
    if not rows or not width or len(offsets) != len(sizes):
        raise ImageError("damaged: the TIFF's table of parts does not fit")
    strips = -(-length // rows)
    planes = tags.get(tag.SAMPLESPERPIXEL, 1) if tags.get(tag.PLANAR_CONFIGURATION, 1) == 2 else 1
    needed = strips * planes * (-(-tags[tag.IMAGEWIDTH] // width) if tiled else 1)
    if len(offsets) < needed:
        raise ImageError(f"parts are missing: {len(offsets)} of the TIFF's {needed}")
    for number, (start, size) in enumerate(zip(offsets, sizes, strict=True)):
        is_last = not tiled and number % strips == strips - 1
        height = length - rows * (strips - 1) if is_last else rows
        if start + (min(size, _bytes_of(tags, width, height)) if is_plain else size) > len(content):
            raise ImageError("cut short")
        yield view[start : start + size], width, height


def _subsampling(tags: Mapping[int, Any]) -> tuple[int, int]:
    """Return how many pixels across and down share two chroma values."""
    across, down = tags.get(tag.YCBCRSUBSAMPLING, (2, 2))
    return across, down


def _bytes_of(tags: Mapping[int, Any], width: int, rows: int) -> int:
    if tags.get(tag.PHOTOMETRIC_INTERPRETATION) == _YCBCR and tags.get(tag.COMPRESSION) != JPEG:
        across, down = _subsampling(tags)
        return int(-(-width // across) * -(-rows // down) * (across * down + 2))
    samples = tags.get(tag.SAMPLESPERPIXEL, 1) if tags.get(tag.PLANAR_CONFIGURATION, 1) == 1 else 1
    return int((width * samples * tags.get(tag.BITSPERSAMPLE, (1,))[0] + 7) // 8 * rows)


def _is_whole_stream(compression: int, part: memoryview, expected: int) -> bool:
    stream: Any = zlib.decompressobj() if compression in _DEFLATE else lzma.LZMADecompressor()
    try:
        found = count_inflated(stream, [part], expected + _MOST_PADDING_BYTES)
    except (zlib.error, lzma.LZMAError):
        return False
    return bool(stream.eof) and found >= expected


def _is_whole_jpeg(tables: bytes, part: bytes, width: int, rows: int) -> bool:
    # Tables that all parts share stand between SOI and EOI, and belong after the part's own SOI.
    whole = part[:2] + tables[2:-2] + part[2:] if tables else part
    header = read_jpeg_header(whole)
    if header and header.rare_kind:
        raise ImageError(f"TIFF of {header.rare_kind}: save it with LZW or deflate")
    try:
        height, wide, space, _ = simplejpeg.decode_jpeg_header(whole)
        refuse_size(wide, height)
        kind = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
        # Strict: libjpeg otherwise paints what it lacks gray and only warns.
        simplejpeg.decode_jpeg(whole, colorspace=kind, strict=True)
    except ValueError:
        return False
    return bool(height >= rows and wide >= width)
