"""What the first bytes of a file tell: its size in pixels, or what it is instead of an image."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import simplejpeg

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
# ITU-T T.81, table B.1: JFIF's own, comments, and what the decoder itself needs.
_PICTURE_MARKERS = {0xE0, 0xFE, 0xDB, 0xC4, 0xDD}
_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}
_HIERARCHICAL_MARKERS = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
_JPEG_LS_MARKER = 0xF7
# C4, C8 and CC lie among those of frames, and are none.
_ALL_FRAME_MARKERS = {*range(0xC0, 0xD0), _JPEG_LS_MARKER} - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER = 0xDA
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


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG tells of itself in front of its first scan: its frame, and every segment."""

    marker: int
    bits: int
    height: int
    width: int
    channels: int
    segments: tuple[tuple[int, bytes], ...]

    @property
    def is_common(self) -> bool:
        """Whether every reader of JPEG takes it: Huffman coded, lossy, of 8 bits."""
        return self.marker in _FRAME_MARKERS and self.bits == 8

    @property
    def is_bare(self) -> bool:
        """Whether it is a picture alone: no EXIF, no inks, no second picture."""
        markers = {marker for marker, _ in self.segments}
        is_picture = markers <= _PICTURE_MARKERS | {self.marker}
        return self.is_common and is_picture and self.channels in (1, 3)

    @property
    def tells_colors(self) -> bool:
        """Whether a marker of JFIF or Adobe, if it is whole, tells which colours are stored."""
        starts = {(marker, body[:5]) for marker, body in self.segments if len(body) >= 12}
        return not starts.isdisjoint({(0xE0, b"JFIF\0"), (0xEE, b"Adobe")})

    @property
    def components(self) -> tuple[int, ...]:
        """The numbers that its frame gives its components."""
        frames = [body for marker, body in self.segments if marker == self.marker]
        return tuple(frames[-1][6 : 6 + 3 * self.channels : 3])

    @property
    def rare_kind(self) -> str:
        """What it is where nothing installed decodes it, else empty."""
        if self.marker == _JPEG_LS_MARKER:
            return "JPEG-LS"
        if self.marker in _HIERARCHICAL_MARKERS:
            return "hierarchical JPEG"
        return "" if self.bits == 8 else f"JPEG of {self.bits} bits a value"


def read_jpeg_header(content: bytes) -> JpegHeader | None:
    """Return what stands in front of a JPEG's first scan, or None of what is none or not whole."""
    if not content.startswith(JPEG_START):
        return None
    frame, segments, place = None, [], 2
    while content.startswith(b"\xff", place) and place + 4 <= len(content):
        marker = content[place + 1]
        if marker == 0xFF:  # fills up
            place += 1
            continue
        if marker == _SCAN_MARKER:
            return JpegHeader(*frame, tuple(segments)) if frame else None
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + size]
        segments.append((marker, body))
        if marker in _ALL_FRAME_MARKERS and len(body) > 5:
            bits, height, width, channels = struct.unpack_from(">BHHB", body)
            frame = marker, bits, height, width, channels
        place += 2 + size
    return None


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
        b"II*\0": "a damaged TIFF",
        b"MM\0*": "a damaged TIFF",
        b"II+\0": "a damaged TIFF",
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
