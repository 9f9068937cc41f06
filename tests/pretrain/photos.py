"""Pictures for tests of views."""

import numpy as np
import torch


def draw_photo(side=96, seed=0, low=0, high=255):
    """A smooth colourful image (side, side, 3): noise would hide errors of interpolation."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    values = low + smooth[0].clamp(0, 1) * (high - low)
    return np.ascontiguousarray(values.to(torch.uint8).permute(1, 2, 0).numpy())


def as_tensor(pixels):
    """Return (3, H, W) of (H, W, 3)."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
