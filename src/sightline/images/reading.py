"""From stored bytes to pixels, and from anybody's bytes to checked upright pixels."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.GifImagePlugin import GifImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sightline.images.checked import (
    MAX_MEGAPIXELS,
    SEVERAL_FRAMES,
    CheckedImage,
    ImageError,
    name_damage,
    refuse_size,
)
from sightline.images.deep import DeepImage, rawmode_of, read_deep
from sightline.images.headers import (
    JPEG_START,
    describe_start,
    is_dicom,
    read_jpeg_header,
    read_size,
)
from sightline.images.intensities import find_levels, strips, window_percentiles
from sightline.images.netpbm import check_netpbm, highest_of
from sightline.images.palette import check_palette, with_whole_palette
from sightline.images.png import check_png, png_depth
from sightline.images.tiff import check_tiff, name_kind, read_tags
from sightline.images.tiff_values import read_deep_tiff

# Nothing else is tried: Pillow's EPS reader, for one, starts another program.
_FORMATS = ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG")
SUFFIXES = {
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
}
_EXIF_ORIENTATION = 0x0112

# We refuse by the size ourselves, far below Pillow's limit, and say so.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What Pillow warns of in damaged files names no file; whether one was read right is ours to tell.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode_image(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a stored image, shape (height, width, 3), RGB, 0..255."""
    if content.startswith(JPEG_START):
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB")
        return pixels
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def decode_as_stored(content: bytes) -> NDArray[np.uint8]:
    """Return what `decode_image` does, but of an image stored as gray one channel.

    Returns:
        Shape (height, width, 3), RGB, or (height, width), gray; 0..255.
    """
    if content.startswith(JPEG_START):
        if simplejpeg.decode_jpeg_header(content)[2] != "Gray":
            return decode_image(content)
        gray: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="GRAY")
        return gray[:, :, 0]
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def read_file(
    content: bytes, name: str = "", *, dicom_frames: Literal["refuse", "split"] = "refuse"
) -> list[CheckedImage]:
    """Read a file that somebody hands us, whatever is wrong with it.

    The header is read first, so that an image of an absurd size costs nothing. EXIF rotation is
    applied. Values of more than 8 bits are windowed between the percentiles 0.5 and 99.5, DICOM as
    its tags say. Transparent parts are put on black. What was done is noted in the images.

    Args:
        content: The whole file; its kind is told by its bytes.
        name: What it is called, to note a suffix that says something else.
        dicom_frames: What becomes of a DICOM file with several frames.

    Returns:
        One image, or one for each frame of a DICOM file that was split.

    Raises:
        ImageError: If it is empty, cut short, damaged, animated, too large or of an unknown kind,
            with the reason; then none of its frames is read.
    """
    if not content:
        raise ImageError("the file is empty")
    if is_dicom(content):
        try:
            from sightline.images.dicom import read_dicom
        except ModuleNotFoundError as error:
            if error.name != "pydicom":
                raise
            raise ImageError("DICOM, which needs pydicom: pip install 'sightline[dicom]'") from None
        return read_dicom(content, dicom_frames)
    return [_read_picture(content, name)]


def _read_picture(content: bytes, name: str) -> CheckedImage:
    if size := read_size(content):
        refuse_size(*size)
    jpeg = read_jpeg_header(content)
    if jpeg and jpeg.rare_kind:
        raise ImageError(f"{jpeg.rare_kind}: save it as PNG")
    tags = read_tags(content)
    try:
        if jpeg and jpeg.is_bare:
            return _checked(_decode_strictly(content, "RGB"), "JPEG", name)
        if tags and (deep := read_deep_tiff(tags, content)):
            pixels, is_plain, notes = _flatten(deep)
            file_format, is_upright = "TIFF", False
            orientation = int(tags.get(_EXIF_ORIENTATION, 1))
        else:
            with Image.open(io.BytesIO(with_whole_palette(content)), formats=_FORMATS) as image:
                refuse_size(*image.size)
                _refuse_frames(image, content)
                file_format = "JPEG" if content.startswith(JPEG_START) else str(image.format)
                # Pillow turns a TIFF upright while it decodes it and then forgets that, but turns
                # nothing else; and it decodes a PNG when it is asked for its EXIF.
                is_upright = file_format == "TIFF"
                turned = getattr(image, "tag_v2", {}).get(_EXIF_ORIENTATION, 1)
                pixels, is_plain, notes = _read(image, content)
                orientation = int(
                    turned if is_upright else image.getexif().get(_EXIF_ORIENTATION, 1)
                )
    except (ImageError, MemoryError):  # too little memory is no fault of the file
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_MEGAPIXELS} megapixels") from None
    except UnidentifiedImageError:
        kind = name_kind(tags) if tags else describe_start(content)
        raise ImageError(f"no image that can be read ({kind})") from None
    # Pillow's readers raise almost anything on damaged bytes; each means: not readable.
    except Exception as error:
        if "MAX_TEXT" in str(error):  # Pillow's limits: 1 MiB each once inflated, 64 MiB together
            raise ImageError(
                "PNG with a text or a colour profile of more than 1 MiB, or texts of more than "
                "64 MiB: save it without them"
            ) from None
        if tags and "raw mode" in str(error):  # Pillow opened it, but has no way to unpack it
            raise ImageError(f"no image that can be read ({name_kind(tags)})") from None
        raise name_damage(error) from None
    if not 0 <= orientation <= 8:
        notes = (*notes, f"EXIF orientation {orientation} does not exist: taken as upright")
    elif orientation not in (1, 0):
        pixels = pixels if is_upright else _turn_upright(pixels, orientation)
        notes = (*notes, f"turned upright (EXIF orientation {orientation})")
        is_plain = False
    return _checked(pixels, file_format, name, is_plain, notes)


def _checked(
    pixels: NDArray[np.uint8],
    file_format: str,
    name: str,
    is_plain: bool = True,
    notes: tuple[str, ...] = (),
) -> CheckedImage:
    ending = PurePosixPath(name).suffix.lower()
    if ending and ending not in SUFFIXES[file_format]:
        notes = (*notes, f"{file_format} by its content, though named {ending}")
    suffix = "jpg" if file_format == "JPEG" else "png"
    return CheckedImage(np.ascontiguousarray(pixels), suffix, is_plain, notes)


def _read(image: Image.Image, content: bytes) -> tuple[NDArray[np.uint8], bool, tuple[str, ...]]:
    if image.format in ("JPEG", "MPO"):
        return _read_jpeg(image, content)
    if image.format == "PNG":
        check_png(content)
        _scale_transparent_gray(image, png_depth(content))
    if isinstance(image, TiffImageFile):
        check_tiff(image.tag_v2, content)
    if isinstance(image, PpmImageFile):
        check_netpbm(image, content)
    if isinstance(image, GifImageFile) and image.tile[0].extents != (0, 0, *image.size):
        raise ImageError("GIF whose picture covers a part of its screen: save it as PNG")
    check_palette(image, content)
    scaled = _scaling_note(image)
    deep = read_deep(image, content)
    if deep is not None:
        return _flatten(deep)
    if image.mode == "LAB":
        raise ImageError("LAB colour: save it as RGB")
    if image.mode == "RGBA" and image.format == "BMP" and not np.asarray(image)[:, :, 3].any():
        image = image.convert("RGB")  # the fourth byte is unused, whatever the header says
    has_alpha = "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if has_alpha:
        if image.mode in ("La", "RGBa"):
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        color = image.convert("RGBA")
        black = Image.new("RGBA", color.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, color).convert("RGB")
        opaque = np.asarray(color)[:, :, 3].min() == 255
        return (
            np.asarray(flat),
            False,
            scaled if opaque else (*scaled, "transparent parts put on black"),
        )
    pixels = np.asarray(image.convert("RGB"))
    is_plain = image.mode in ("L", "RGB") and image.format == "PNG" and png_depth(content) == 8
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        return pixels, False, (*scaled, f"{image.mode} turned into RGB")
    return pixels, is_plain, scaled


def _read_jpeg(
    image: Image.Image, content: bytes
) -> tuple[NDArray[np.uint8], bool, tuple[str, ...]]:
    header = read_jpeg_header(content)
    is_common = header is not None and header.is_common
    if image.mode == "L" and not is_common:  # libjpeg turns no gray coded without loss into RGB
        return np.repeat(_decode_strictly(content, "GRAY"), 3, axis=2), False, ()
    if image.mode != "CMYK":
        return _decode_strictly(content, "RGB"), is_common, ()
    inks = _decode_strictly(content, "CMYK")
    if "adobe" in image.info:
        inks = 255 - inks  # Adobe writes 255 for no ink
    return (
        np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")),
        False,
        ("CMYK turned into RGB",),
    )


def _decode_strictly(content: bytes, colorspace: str) -> NDArray[np.uint8]:
    # libjpeg otherwise paints what it lacks gray and only warns.
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace=colorspace, strict=True)
    return pixels


def _flatten(deep: DeepImage) -> tuple[NDArray[np.uint8], bool, tuple[str, ...]]:
    hidden = None if deep.opacity is None else deep.opacity == 0
    if hidden is not None and hidden.all():
        hidden = None
    levels = find_levels(deep.values, hidden)
    shown, notes = window_percentiles(levels, levels.values, deep.kind)
    pixels = levels.paint(255 - shown if deep.white_is_zero else shown)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if deep.opacity is not None and deep.opacity.min() < deep.opaque:
        for rows in strips(pixels):
            share = deep.opacity[rows, :, None] / deep.opaque
            pixels[rows] = np.round(pixels[rows] * share).astype(np.uint8)
        notes = (*notes, "transparent parts put on black")
    return pixels, False, notes


def _scaling_note(image: Image.Image) -> tuple[str, ...]:
    """Tell where Pillow itself brings more than 8 bits to 8, over their full range."""
    deep_ppm = isinstance(image, PpmImageFile) and image.mode == "RGB" and highest_of(image) > 255
    if deep_ppm or rawmode_of(image)[:-1] in ("RGBa;16", "CMYK;16"):
        return ("16-bit colour scaled to 8 bit",)
    return ()


def _scale_transparent_gray(image: Image.Image, depth: int) -> None:
    # Pillow widens gray of 2 and 4 bits to 8, but not the value that is transparent.
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and depth < 8:
        image.info["transparency"] = key * 255 // (2**depth - 1)


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
    return turned[orientation](pixels)


def _refuse_frames(image: Image.Image, content: bytes) -> None:
    # A phone's JPEG may carry a preview as a second frame; the first is the picture.
    if content.startswith(JPEG_START) or isinstance(image, TiffImageFile):
        return  # Pillow counts a TIFF's pages in quadratic time; `check_tiff` looks for a second
    if getattr(image, "is_animated", False):
        raise ImageError(SEVERAL_FRAMES)
