"""Training views for classification: turn, crop, resize, mirror, each drawn from a counter."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sightline.data import derived_seed
from sightline.finetune.config import FinetuneConfig
from sightline.machine import usable_cores

_RATIOS = (3 / 4, 4 / 3)
_BATCHES_AHEAD = 2


def draw_view(
    image: NDArray[np.uint8], size: int, config: FinetuneConfig, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw one training view: turned, cropped as torchvision's RandomResizedCrop does, mirrored.

    Args:
        image: Shape (height, width, 3), RGB, 0..255.
        size: Side of the view in pixels.
        config: How far views may go.
        random: Where the draws come from.

    Returns:
        Shape (size, size, 3).
    """
    angle, mirror = random.uniform(-1, 1) * config.rotation_degrees, random.random()
    box = draw_crop(image.shape[1], image.shape[0], config.crop_scale_min, random)
    view = Image.fromarray(image)
    if config.rotation_degrees:
        view = view.rotate(angle, Image.Resampling.BILINEAR)
    view = view.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if mirror < config.flip_probability:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def draw_crop(
    width: int, height: int, scale_min: float, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a rectangle (left, top, right, bottom) that covers at least `scale_min` of an image.

    Up to ten tries with an aspect ratio of 3:4 to 4:3, then the whole image.
    """
    low, high = (math.log(ratio) for ratio in _RATIOS)
    for _ in range(10):
        area = width * height * random.uniform(scale_min, 1)
        ratio = math.exp(random.uniform(low, high))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(random.integers(0, width - crop_width + 1))
            top = int(random.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return 0, 0, width, height


def training_batches(
    images: Sequence[NDArray[np.uint8]], size: int, config: FinetuneConfig, epoch: int
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield one epoch of views and their places in `images`, drawn ahead by threads.

    Order and views depend on (seed, epoch, place) alone. Batches differ by one image at most
    instead of leaving a small rest, in which BatchNorm would see too few images.

    Yields:
        uint8 views of shape (B, 3, size, size), and their B places.
    """
    random = np.random.default_rng(derived_seed(config.seed, "order", epoch))
    batches = np.array_split(
        random.permutation(len(images)), steps_per_epoch(len(images), config.batch_size)
    )

    def draw(place: int) -> NDArray[np.uint8]:
        own = np.random.default_rng(derived_seed(config.seed, "view", epoch, place))
        return draw_view(images[place], size, config, own)

    def draw_batch(places: NDArray[np.int64]) -> Tensor:
        views = np.stack([draw(int(place)) for place in places])
        return torch.from_numpy(views).permute(0, 3, 1, 2).contiguous()

    waiting: deque[tuple[Future[Tensor], NDArray[np.int64]]] = deque()
    with ThreadPoolExecutor(max_workers=min(4, usable_cores())) as pool:
        for places in batches:
            waiting.append((pool.submit(draw_batch, places), places))
            if len(waiting) > _BATCHES_AHEAD:
                views, drawn = waiting.popleft()
                yield views.result(), drawn
        for views, drawn in waiting:
            yield views.result(), drawn


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return how many optimiser steps an epoch has; BatchNorm needs two images in each."""
    return max(1, min(math.ceil(images / batch_size), images // 2))
