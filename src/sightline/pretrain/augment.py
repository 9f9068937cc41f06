"""SimCLR's random views: each a pure function of seed, epoch, image and view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sightline.pretrain.appearance import paint
from sightline.pretrain.config import PretrainConfig
from sightline.pretrain.exact_views import ExactViews
from sightline.pretrain.fast_views import FastViews


class SimCLRViews:
    """Two views of an image, drawn as the setting `augmentation` says.

    All randomness comes from (seed, epoch, image, view), so the views are the same whatever the
    number of processes that draw them, and after a restart.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self._draw = ExactViews(config) if config.augmentation == "exact" else _PaintedViews(config)

    def __call__(
        self, image: NDArray[np.uint8], epoch: int, index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return two views, shape (image_size, image_size, 3), RGB, 0..255.

        Args:
            image: Shape (height, width, 3), RGB, or (height, width), gray; 0..255.
            epoch: The epoch, counted from 1.
            index: The image's place in the data set.
        """
        first, second = (self._draw(image, epoch, index, view) for view in (0, 1))
        return first, second


class _PaintedViews:
    def __init__(self, config: PretrainConfig) -> None:
        self._fast = FastViews(config)
        self._kernel_px = config.blur_kernel_px

    def __call__(
        self, image: NDArray[np.uint8], epoch: int, index: int, view: int
    ) -> NDArray[np.uint8]:
        return paint(self._fast(image, epoch, index, view), self._kernel_px)
