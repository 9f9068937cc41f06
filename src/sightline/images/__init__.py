"""Reading images: anybody's bytes to checked upright pixels, and stored bytes to pixels."""

from sightline.images.checked import CheckedImage, ImageError
from sightline.images.reading import SUFFIXES, decode_as_stored, decode_image, read_file

__all__ = [
    "SUFFIXES",
    "CheckedImage",
    "ImageError",
    "decode_as_stored",
    "decode_image",
    "read_file",
]
