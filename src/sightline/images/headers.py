"""What the first bytes of a file tell: its size in pixels, or what it is instead of an image."""

from __future__ import annotations

import struct

import simplejpeg

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
# ITU-T T.81, table B.1: JFIF's own, comments, and what the decoder itself needs.
_PICTURE_MARKERS = {0xE0, 0xFE, 0xDB, 0xC4, 0xDD}
_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}
_SCAN_MARKER = 0xDA
_RARE_TIFF = "a TIFF, damaged or of a rare kind: save it with 8 or 16 bits, gray or RGB"
# Group 0002 or 0008, little endian, and an element below 0x0100.
_BARE_DICOM_STARTS = (b"\x02\x00", b"\x08\x00")


def read_size(content: bytes) -> tuple[int, int] | None:
    """Return the width and height that a header claims, or None where it cannot be told so soon."""
    try:
        if content.startswith(JPEG_START):
            # Asks the library that decodes it later: two readers may find two sizes.
            height, width, _, _ = simplejpeg.decode_jpeg_header(content)
            return width, height
        if content.startswith(PNG_START) and content[12:16] == b"IHDR":
            return _pair(">II", content, 16)
        if content.startswith((b"GIF87a", b"GIF89a")):
            return _pair("<HH", content, 6)
        if content.startswith(b"BM") and int.from_bytes(content[14:18], "little") >= 40:
            width, height = _pair("<ii", content, 18)
            return width, abs(height)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp_size(content)
    except (struct.error, ValueError):
        pass  # the decoder says better what is wrong
    return None


def is_bare_jpeg(content: bytes) -> bool:
    """Tell whether a file is a JPEG of a picture alone: no EXIF, no inks, no second picture."""
    if not content.startswith(JPEG_START):
        return False
    place, is_gray_or_rgb = 2, False
    while content.startswith(b"\xff", place) and place + 10 <= len(content):
        marker = content[place + 1]
        if marker == _SCAN_MARKER:
            return is_gray_or_rgb
        if marker in _FRAME_MARKERS:
            is_gray_or_rgb = content[place + 4] == 8 and content[place + 9] in (1, 3)
        elif marker not in _PICTURE_MARKERS:
            return False
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def is_dicom(content: bytes) -> bool:
    """Tell whether a file is DICOM, also one that lacks the preamble as very old ones do."""
    bare = content[:2] in _BARE_DICOM_STARTS and content[3:4] == b"\0" and len(content) > 8
    return content[128:132] == b"DICM" or bare


def describe_start(content: bytes) -> str:
    """Tell what a file is that is no image of a kind we read."""
    known = {
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip file, such as NIfTI",
        b"version https://git-lfs": "a Git LFS pointer, not the image: run git lfs pull",
        b"<": "a web page or SVG",
        b"II*\0": _RARE_TIFF,
        b"MM\0*": _RARE_TIFF,
        PNG_START: "a damaged PNG",
        JPEG_START: "a damaged JPEG",
        b"GIF8": "a damaged GIF",
        b"RIFF": "a damaged WebP, or another RIFF file",
        b"BM": "a damaged BMP",
        b"\0\0\0\x0cjP": "JPEG 2000: save it as PNG",
        b"\x93NUMPY": "a NumPy array: save it as PNG or TIFF",
    }
    for start, name in known.items():
        if content.startswith(start):
            return name
    if content[4:8] == b"ftyp":
        return f"{content[8:12].decode('ascii', 'replace').upper()}: save it as PNG"
    return f"it starts with {content[:8]!r}"


def _webp_size(content: bytes) -> tuple[int, int] | None:
    # RFC 9649: 14 bits a side for lossy and lossless, 24 bits for the extended form.
    if content[12:16] == b"VP8X":
        return (
            1 + int.from_bytes(content[24:27], "little"),
            1 + int.from_bytes(content[27:30], "little"),
        )
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if content[12:16] == b"VP8 ":
        width, height = _pair("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _pair(form: str, content: bytes, place: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, content, place)
    return first, second
