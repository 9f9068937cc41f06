"""From decoded images of any size to what an encoder takes: the one evaluation transform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def resize_images(images: Sequence[NDArray[np.uint8]], size: int) -> Tensor:
    """Resize images to squares, antialiased, without cropping: every pixel has its say.

    Args:
        images: Each of shape (height, width, 3), RGB, 0..255.
        size: Side of the result in pixels.

    Returns:
        uint8 tensor of shape (len(images), 3, size, size).
    """
    resized = torch.empty((len(images), 3, size, size), dtype=torch.uint8)
    for place, image in enumerate(images):
        # A copy, because decoded images are read-only and torch has no such thing.
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
        if tensor.shape[2:] != (size, size):
            tensor = F.interpolate(tensor, size=(size, size), mode="bilinear", antialias=True)
        resized[place] = tensor[0]
    return resized


def to_unit_range(pixels: Tensor, device: torch.device) -> Tensor:
    """Bring uint8 pixels onto a device, then to 0..1: bytes cross the bus, not floats."""
    return pixels.to(device, non_blocking=True).float() / 255
