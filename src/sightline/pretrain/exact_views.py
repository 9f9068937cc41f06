"""SimCLR's random views by torchvision's own transforms: the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from sightline.data import derived_seed
from sightline.pretrain.config import PretrainConfig


class ExactViews:
    """Views drawn by torchvision from a stream of their own."""

    def __init__(self, config: PretrainConfig) -> None:
        self._seed = config.seed
        self._transform = build_view_transform(config)

    def __call__(
        self, image: NDArray[np.uint8], epoch: int, index: int, view: int
    ) -> NDArray[np.uint8]:
        """Return a view, shape (image_size, image_size, 3), of an image as `SimCLRViews` takes."""
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
        # torchvision draws from the global generator and takes no other. The accelerators'
        # generators stay as they are, which torch.manual_seed would not leave them. Work on one
        # small image is too short to be divided: on a busy machine two threads that wait for each
        # other cost 12 times the processor time of one.
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            torch.default_generator.manual_seed(derived_seed(self._seed, epoch, index, view))
            drawn: Tensor = self._transform(pixels)
        finally:
            torch.set_rng_state(before)
            torch.set_num_threads(threads)
        return drawn.permute(1, 2, 0).contiguous().numpy()


def build_view_transform(config: PretrainConfig) -> v2.Compose:
    """Return the settings' augmentations as torchvision's own transforms, in SimCLR's order.

    It takes an image (3, H, W) of uint8 and gives (3, image_size, image_size) of uint8.
    """
    turn = [v2.RandomRotation(config.rotation_degrees, v2.InterpolationMode.BILINEAR)]
    jitter = v2.ColorJitter(
        config.jitter_brightness,
        config.jitter_contrast,
        config.jitter_saturation,
        config.jitter_hue,
    )
    blur = SeparableGaussianBlur(
        config.blur_kernel_px, (config.blur_sigma_min, config.blur_sigma_max)
    )
    return v2.Compose(
        [
            *(turn if config.rotation_degrees else []),
            v2.RandomResizedCrop(
                config.image_size, (config.crop_scale_min, config.crop_scale_max), antialias=True
            ),
            v2.RandomHorizontalFlip(config.flip_probability),
            v2.RandomApply([jitter], config.jitter_probability),
            v2.RandomGrayscale(config.grayscale_probability),
            v2.RandomApply([blur], config.blur_probability),
        ]
    )


class SeparableGaussianBlur(v2.GaussianBlur):  # type: ignore[misc]
    """torchvision's Gaussian blur as a row and a column: equal up to rounding.

    A kernel of 23 px costs 46 products a pixel this way; torchvision takes all 529.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur an image (3, H, W) of uint8 with the drawn standard deviation."""
        sigma = params["sigma"][0]
        side = self.kernel_size[0]
        reach = side // 2
        offsets = torch.linspace(-reach, reach, side)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = kernel / kernel.sum()
        channels = inpt.shape[0]
        padded = F.pad(inpt.float()[None], [reach] * 4, mode="reflect")
        weight = kernel.expand(channels, 1, 1, side)
        rows = F.conv2d(padded, weight, groups=channels)
        both = F.conv2d(rows, weight.transpose(2, 3), groups=channels)
        return both[0].round_().clamp_(0, 255).to(inpt.dtype)
