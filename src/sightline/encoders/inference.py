"""Features and probabilities of whole lists of images, batch by batch, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.encoders.base import Encoder
from sightline.encoders.inputs import resize_images, to_unit_range

Images = Sequence[NDArray[np.uint8]]


def encode_images(
    encoder: Encoder,
    images: Images,
    image_size: int = 0,
    batch_size: int = 64,
    device: torch.device | None = None,
) -> NDArray[np.float32]:
    """Return the features h of images; the encoder is frozen and in evaluation mode meanwhile.

    Args:
        encoder: The encoder; moved to `device`.
        images: Each of shape (height, width, 3), RGB, 0..255, of any size.
        image_size: Side in pixels that images are resized to; 0 means the encoder's own.
        batch_size: Images encoded at once.
        device: Where to compute; the CPU if left out.

    Returns:
        float32 array of shape (len(images), encoder.width).
    """
    size = image_size or encoder.spec.image_size
    return _run(encoder, images, size, batch_size, device, encoder.width).numpy()


def predict_probabilities(
    classifier: nn.Module | Callable[[Tensor], Tensor],
    images: Images,
    image_size: int,
    batch_size: int = 64,
    device: torch.device | None = None,
) -> NDArray[np.float64]:
    """Return class probabilities of images, each resized whole to a square.

    Args:
        classifier: Gives logits (N, C) for images (N, 3, S, S) in 0..1; a module is moved to
            `device` and put in evaluation mode meanwhile.
        images: Each of shape (height, width, 3), RGB, 0..255, of any size.
        image_size: Side in pixels that images are resized to.
        batch_size: Images classified at once.
        device: Where to compute; the CPU if left out.

    Returns:
        float64 array of shape (len(images), C) whose rows sum to 1.
    """
    logits = _run(classifier, images, image_size, batch_size, device, 0)
    return torch.softmax(logits.double(), dim=1).numpy()


def _run(
    network: nn.Module | Callable[[Tensor], Tensor],
    images: Images,
    size: int,
    batch_size: int,
    device: torch.device | None,
    width_if_empty: int,
) -> Tensor:
    device = device or torch.device("cpu")
    outputs = [torch.empty((0, width_if_empty))]
    with evaluation_mode(network, device), torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = resize_images(images[start : start + batch_size], size)
            outputs.append(network(to_unit_range(pixels, device)).float().cpu())
    return torch.cat(outputs[1:] or outputs)


@contextmanager
def evaluation_mode(
    network: nn.Module | Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[None]:
    """Put a module on a device and in evaluation mode, and each part back into its own after."""
    if not isinstance(network, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in network.modules()]
    network.to(device).eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
