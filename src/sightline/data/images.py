"""From stored bytes to pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decode_image(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a stored image, shape (height, width, 3), RGB, 0..255."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
