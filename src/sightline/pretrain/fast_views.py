"""SimCLR's random views by OpenCV: what happens is drawn first, from a hash, then done.

The distributions are torchvision's. Two things differ from `exact`: hue turns in YIQ instead of
HSV, and what shrinks by less than a quarter is antialiased by a cheaper filter than its triangle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.data.randomness import derived_uniforms
from sightline.pretrain.appearance import ColourChange, ShapedView
from sightline.pretrain.config import PretrainConfig

_RATIOS = (3 / 4, 4 / 3)
_CROP_TRIES = 10
MAX_CHANGES = 5
"""Changes of colour of one view, at most: four of the jitter, and the loss of colour."""
_ORDERS = tuple(itertools.permutations(range(4)))
# Above this, in the mean of both axes, Pillow shrinks a view; below, `_antialias` is near enough.
_SHRINKING = 1.25

Crop = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


class FastViews:
    """Views whose draws come from a hash of the counters, and whose pixels OpenCV computes."""

    def __init__(self, config: PretrainConfig) -> None:
        self._config = config

    def __call__(self, image: NDArray[np.uint8], epoch: int, index: int, view: int) -> ShapedView:
        """Return a view, but for its colours and blur, of an image as `SimCLRViews` takes it."""
        config = self._config
        draws = derived_uniforms(12 + 4 * _CROP_TRIES, config.seed, epoch, index, view)
        turned, mirrored, jittered, order, *strengths, grayed, blurred, sigma = draws[:11]
        crop = draw_crop(
            image.shape[1], image.shape[0], config.crop_scale_min, config.crop_scale_max, draws[12:]
        )
        degrees = (2 * turned - 1) * config.rotation_degrees
        pixels = cut_out(image, crop, degrees, config.image_size)
        if mirrored < config.flip_probability:
            pixels = cv2.flip(pixels, 1)
        changes: list[ColourChange] = []
        if jittered < config.jitter_probability:
            changes = self._jitter(int(order * len(_ORDERS)), strengths)
        if grayed < config.grayscale_probability:
            changes.append(ColourChange("saturation", 0.0))
        low, high = config.blur_sigma_min, config.blur_sigma_max
        sigma_px = low + sigma * (high - low) if blurred < config.blur_probability else 0.0
        return ShapedView(pixels, changes, sigma_px)

    def _jitter(self, order: int, strengths: Sequence[float]) -> list[ColourChange]:
        config = self._config
        brightness, contrast, saturation, hue = strengths
        changes = (
            ColourChange("brightness", _factor(config.jitter_brightness, brightness)),
            ColourChange("contrast", _factor(config.jitter_contrast, contrast)),
            ColourChange("saturation", _factor(config.jitter_saturation, saturation)),
            ColourChange("hue", (2 * hue - 1) * config.jitter_hue),
        )
        return [changes[place] for place in _ORDERS[order]]


def _factor(strength: float, draw: float) -> float:
    low = max(0.0, 1 - strength)
    return low + draw * (1 + strength - low)


def draw_crop(
    width: int, height: int, scale_min: float, scale_max: float, draws: Sequence[float]
) -> Crop:
    """Choose a rectangle as torchvision's RandomResizedCrop does, by given numbers in [0, 1).

    Each try takes four of them: area, aspect ratio (3:4 to 4:3), left, top. Where none fits, the
    largest rectangle of an allowed ratio in the middle is taken.
    """
    area = width * height
    low, high = (math.log(ratio) for ratio in _RATIOS)
    for scale, aspect, left, top in zip(*[iter(draws)] * 4, strict=False):
        target = area * (scale_min + scale * (scale_max - scale_min))
        ratio = math.exp(low + aspect * (high - low))
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            free_x, free_y = width - crop_width + 1, height - crop_height + 1
            return int(left * free_x), int(top * free_y), crop_width, crop_height
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[1])
    crop_width = min(width, round(height * ratio))
    crop_height = min(height, round(width / ratio))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def cut_out(image: NDArray[np.uint8], crop: Crop, degrees: float, side: int) -> NDArray[np.uint8]:
    """Return a rectangle of an image that was turned about its centre, resized to a square.

    Args:
        image: Shape (height, width) or (height, width, 3).
        crop: The rectangle, in the turned image, which is as large as the image.
        degrees: Counter-clockwise; corners that were outside become black.
        side: Side of the result in pixels.
    """
    left, top, width, height = crop
    if degrees:
        rows, columns = image.shape[:2]
        # Pixel centres: those of OpenCV lie at whole numbers.
        turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
        turn[:, 2] -= left, top
        part = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR)
    else:
        part = image[top : top + height, left : left + width]
    if part.shape[:2] == (side, side):
        return np.ascontiguousarray(part)
    if math.sqrt(width * height) > _SHRINKING * side:
        return np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR))
    if width > side or height > side:
        part = cv2.sepFilter2D(part, -1, _antialias(width / side), _antialias(height / side))
    resized: NDArray[np.uint8] = cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR)
    return resized


def _antialias(factor: float) -> NDArray[np.float32]:
    """Return the kernel before an interpolation that makes an axis shorter by a small factor.

    Together they leave of a fine grain what the triangle of torchvision and Pillow leaves, to 2 %
    of its standard deviation up to a factor of 1.25; that triangle itself costs 7 times as much.
    """
    share = max(0.0, factor**2 - 1) / 8
    return np.array([share, 1 - 2 * share, share], np.float32)
