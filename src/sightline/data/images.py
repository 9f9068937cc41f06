"""From stored bytes to pixels, and from anybody's bytes to checked upright pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sightline.config import UserError
from sightline.telemetry import count

MAX_MEGAPIXELS = 50
MAX_SIDE_PX = 10_000
WINDOW_PERCENTILES = (0.5, 99.5)

# Nothing else is tried: Pillow's EPS reader, for one, starts another program.
_FORMATS = ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG")
_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_ORIENTATION = 0x0112
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


class ImageError(UserError):
    """Bytes that are no image we can read right; the message is the reason alone."""


@dataclass(frozen=True)
class CheckedImage:
    """An image from outside, read right.

    `pixels` is upright, shape (height, width, 3), RGB, 0..255. `is_plain` says that the file itself
    is an 8-bit upright gray or RGB JPEG or PNG, which can be stored as it is. `notes` tell what
    was done to it. `frame` counts from 1 where a file held several, and is 0 otherwise. `patient` is
    a hash of the patient's number where the file tells one, never the number itself.
    """

    pixels: NDArray[np.uint8]
    suffix: str
    is_plain: bool
    notes: tuple[str, ...] = ()
    frame: int = 0
    patient: str = ""


def decode_image(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a stored image, shape (height, width, 3), RGB, 0..255."""
    if content.startswith(_JPEG_START):
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB")
        return pixels
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def read_file(
    content: bytes,
    name: str = "",  # noqa: ARG001
    *,
    dicom_frames: Literal["refuse", "split"] = "refuse",  # noqa: ARG001
) -> list[CheckedImage]:
    """Read a file that somebody hands us: one image, or one a frame.

    Raises:
        ImageError: If it is empty, cut short, damaged, animated, too large or of an unknown kind.
    """
    return [check_image(content)]


def check_image(content: bytes) -> CheckedImage:
    """Read an image that somebody hands us, whatever is wrong with it.

    The header is read first, so that an image of an absurd size costs nothing. EXIF rotation is
    applied. Gray values of more than 8 bits are windowed between the percentiles 0.5 and 99.5;
    there a pixel that is not finite becomes the lowest value, +inf the highest. Transparent parts
    are put on black.

    Raises:
        ImageError: If it is empty, cut short, damaged, animated, too large or of an unknown kind.
    """
    if not content:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _refuse_large(*image.size)
            _refuse_frames(image, content)
            orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
            if image.format == "PNG":
                _check_png(content)
            pixels, is_plain, notes = _read(image, content)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"larger than {MAX_MEGAPIXELS} megapixels") from None
    except UnidentifiedImageError:
        raise ImageError(f"no image that can be read ({_describe_start(content)})") from None
    # Pillow's readers raise almost anything on damaged bytes; each means: not readable.
    except Exception as error:
        raise ImageError(f"damaged or cut short: {_first_line(error)}") from None
    if orientation not in (1, 0):
        pixels = _turn_upright(pixels, orientation)
        notes = (*notes, f"turned upright (EXIF orientation {orientation})")
        is_plain = False
    suffix = "jpg" if content.startswith(_JPEG_START) else "png"
    return CheckedImage(np.ascontiguousarray(pixels), suffix, is_plain, notes)


def _read(image: Image.Image, content: bytes) -> tuple[NDArray[np.uint8], bool, tuple[str, ...]]:
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        # Strict: libjpeg otherwise paints what it lacks gray and only warns.
        return simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True), True, ()
    if image.mode in _DEEP_MODES:
        return _window(np.asarray(image))
    has_alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if has_alpha:
        color = image.convert("RGBA")
        black = Image.new("RGBA", color.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, color).convert("RGB")
        opaque = np.asarray(color)[:, :, 3].min() == 255
        return np.asarray(flat), False, () if opaque else ("transparent parts put on black",)
    pixels = np.asarray(image.convert("RGB"))
    if image.mode in ("L", "RGB") and image.format == "PNG" and content[24] == 8:
        return pixels, True, ()
    if image.mode == "RGB" and image.format == "PNG" and content[24] == 16:
        return pixels, False, ("16-bit colour scaled to 8 bit",)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return pixels, False, (f"{image.mode} turned into RGB",)
    return pixels, False, ()


def _window(values: NDArray[np.generic]) -> tuple[NDArray[np.uint8], bool, tuple[str, ...]]:
    exact = values.astype(np.float64)
    finite = exact[np.isfinite(exact)]
    if not finite.size:
        raise ImageError("holds no finite value")
    low, high = np.percentile(finite, WINDOW_PERCENTILES)
    span = max(high - low, np.finfo(np.float64).tiny)
    share = np.clip((np.nan_to_num(exact, nan=low) - low) / span, 0, 1)
    gray = np.round(255 * share).astype(np.uint8)
    notes = [
        f"{values.dtype.itemsize * 8}-bit gray, values {low:g} to {high:g} spread over 0 to 255"
    ]
    at_top = int(np.isposinf(exact).sum())
    for pixels, end in ((exact.size - finite.size - at_top, "lowest"), (at_top, "highest")):
        if pixels:
            notes.append(f"{count(pixels, 'pixel')} not finite, set to the {end} value")
    return np.repeat(gray[:, :, None], 3, axis=2), False, tuple(notes)


def _turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    # EXIF names where row 0 and column 0 of the stored picture belong.
    turned: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }
    if orientation not in turned:
        raise ImageError(f"EXIF orientation {orientation} does not exist")
    return turned[orientation](pixels)


def _refuse_large(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_MEGAPIXELS * 1_000_000:
        raise ImageError(
            f"{width} x {height} pixels, more than {MAX_MEGAPIXELS} megapixels or "
            f"{MAX_SIDE_PX:,} a side"
        )
    if not width or not height:
        raise ImageError(f"{width} x {height} pixels")


def _refuse_frames(image: Image.Image, content: bytes) -> None:
    frames = getattr(image, "n_frames", 1)
    # A phone's JPEG may carry a preview as a second frame; the first is the picture.
    if frames > 1 and not content.startswith(_JPEG_START):
        raise ImageError(f"{frames} frames (animated, or several pages): save each as one file")


def _check_png(content: bytes) -> None:
    """Refuse a PNG whose rows are not all there; Pillow reads it and leaves them black."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    passes = [(width, height)]
    if interlaced:
        grid = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
        grid += ((1, 0, 2, 2), (0, 1, 1, 2))  # type: ignore[assignment]
        passes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in grid]
    expected = sum(h * (1 + (w * depth * channels + 7) // 8) for w, h in passes if w and h)
    stream = zlib.decompressobj()
    found = 0
    for part in _png_chunks(content, b"IDAT"):
        while part and found <= expected:
            found += len(stream.decompress(part, max(1, expected + 1 - found)))
            part = stream.unconsumed_tail
    if found < expected:
        raise ImageError(f"rows are missing: {found:,} of {expected:,} bytes of pixels")


def _png_chunks(content: bytes, wanted: bytes) -> list[bytes]:
    found = []
    place = len(_PNG_START)
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        end = place + 12 + size
        if end > len(content):
            raise ImageError("cut short")
        if kind == wanted:
            body = content[place + 8 : end - 4]
            if zlib.crc32(kind + body) != int.from_bytes(content[end - 4 : end], "big"):
                raise ImageError("damaged: a checksum inside the PNG does not fit")
            found.append(body)
        if kind == b"IEND":
            break
        place = end
    return found


def _describe_start(content: bytes) -> str:
    known = {
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip file, such as NIfTI",
        b"version https://git-lfs": "a Git LFS pointer, not the image: run git lfs pull",
        b"<": "a web page or SVG",
    }
    if content[128:132] == b"DICM":
        return "DICOM: export it as 16-bit PNG"
    for start, name in known.items():
        if content.startswith(start):
            return name
    return f"it starts with {content[:8]!r}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
