"""From a file's bytes to pictures that are checked, decoded whole and ready to be stored.

A pure function of the bytes, so it may run in any process.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from sightline.errors import UserError
from sightline.images import CheckedImage, read_file

THUMBNAIL_SIDE_PX = 32
_JPEG_QUALITY = 95
_JPEG_SAMPLINGS = ("444", "422", "420")


class Wanted(NamedTuple):
    """What becomes of a file: how it is called, and how its pictures are to be stored."""

    key: str
    dicom_frames: Literal["refuse", "split"]
    short_side_px: int


@dataclass(frozen=True)
class ReadPicture:
    """A picture that was read right: its bytes as they will be stored, and what tells copies apart.

    `content` is None where the file's own bytes are stored; `sha256` is of what is stored.
    `pixels` is a hash of size and pixels before any scaling; `thumbnail` is gray, 32 x 32 bytes.
    """

    content: bytes | None
    sha256: str
    suffix: str
    width: int
    height: int
    is_scaled: bool
    pixels: bytes
    thumbnail: bytes
    notes: tuple[str, ...]
    frame: int
    patient: str


def read_pictures(content: bytes, wanted: Wanted) -> list[ReadPicture]:
    """Return a file's pictures.

    Raises:
        ImageError: If it cannot be read right; the message is the reason.
        UserError: If the memory does not suffice, which is no fault of the file.
    """
    try:
        images = read_file(content, wanted.key, dicom_frames=wanted.dicom_frames)
        return [_pack(content, image, wanted.short_side_px) for image in images]
    except MemoryError:
        raise UserError(
            f"the memory does not suffice to read {wanted.key}: give the step more (each core "
            "reads an image; docs/data.md says how much one takes), or leave the file out"
        ) from None


def _pack(original: bytes, checked: CheckedImage, short_side_px: int) -> ReadPicture:
    pixels, suffix = checked.pixels, checked.suffix
    height, width = pixels.shape[:2]
    content = None
    digest = hashlib.sha256(f"{height} {width}".encode())
    digest.update(pixels.data)
    scale = short_side_px / min(width, height)
    if scale < 1 or not checked.is_plain:
        picture = Image.fromarray(pixels)
        if scale < 1:
            width, height = max(1, round(width * scale)), max(1, round(height * scale))
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        # What was JPEG and is scaled has lost its exact values already, and is decoded 10 times as
        # fast as PNG; whatever else is changed keeps every value.
        suffix = suffix if scale < 1 else "png"
        content = _encode_jpeg(picture, original) if suffix == "jpg" else _encode_png(picture)
    return ReadPicture(
        content=content,
        sha256=hashlib.sha256(content or original).hexdigest(),
        suffix=suffix,
        width=width,
        height=height,
        is_scaled=scale < 1,
        pixels=digest.digest(),
        thumbnail=make_thumbnail(pixels),
        notes=checked.notes,
        frame=checked.frame,
        patient=checked.patient,
    )


def make_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Return the thumbnail of a picture: each pixel the mean of what it covers, in gray."""
    side = THUMBNAIL_SIDE_PX
    # Gray first: Pillow takes an array of colours only by copying it.
    gray = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    return gray.resize((side, side), Image.Resampling.BOX).tobytes()


def _encode_jpeg(picture: Image.Image, original: bytes) -> bytes:
    pixels = np.asarray(picture)
    sampling = simplejpeg.decode_jpeg_header(original)[3]
    if _is_gray(pixels):
        gray = np.ascontiguousarray(pixels[:, :, :1])
        encoded: bytes = simplejpeg.encode_jpeg(gray, _JPEG_QUALITY, "GRAY", "Gray")
        return encoded
    # Colours as fine as the original has them.
    sampling = sampling if sampling in _JPEG_SAMPLINGS else "444"
    encoded = simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, "RGB", sampling)
    return encoded


def _encode_png(picture: Image.Image) -> bytes:
    pixels = np.asarray(picture)
    buffer = io.BytesIO()
    (Image.fromarray(pixels[:, :, 0]) if _is_gray(pixels) else picture).save(buffer, "PNG")
    return buffer.getvalue()


def _is_gray(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())
