"""Colours and blur of SimCLR's views, by OpenCV or for a whole batch on a device.

Brightness, contrast, saturation, hue and the loss of colour each make a pixel's new colour a linear
function of its old one and of the view's mean luminance, cut to 0..255. Where nothing can be cut
between two of them they become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# ITU-R BT.601, which torchvision weighs by, too.
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
# A neighbour that counts less than half a level of 255 changes nothing.
_SMALLEST_SIGMA_PX = 1 / math.sqrt(2 * math.log(510))
_REACH_SIGMAS = 3.0


class ColourChange(NamedTuple):
    """A new colour is matrix · colour + mean_share · the view's mean luminance, cut to 0..255."""

    matrix: NDArray[np.float64]
    """Shape (3, 3)."""
    mean_share: float
    may_cut: bool
    """Whether the result may lie outside 0..255."""


def change_brightness(factor: float) -> ColourChange:
    """Multiply every value."""
    return ColourChange(factor * np.eye(3), 0.0, factor > 1)


def change_contrast(factor: float) -> ColourChange:
    """Multiply every value's distance from the view's mean luminance."""
    return ColourChange(factor * np.eye(3), 1 - factor, factor > 1)


def change_saturation(factor: float) -> ColourChange:
    """Multiply every colour's distance from the gray of its luminance; 0 leaves gray."""
    return ColourChange(factor * np.eye(3) + (1 - factor) * _LUMA, 0.0, factor > 1)


def turn_hue(share: float) -> ColourChange:
    """Turn the hue by a share of the colour circle, in YIQ: luminance stays."""
    angle = -2 * math.pi * share  # from red towards green, as in HSV
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return ColourChange(_FROM_YIQ @ turn @ _TO_YIQ, 0.0, share != 0)


class ShapedView(NamedTuple):
    """A view that is turned, cropped, resized and mirrored, and how it is to be painted."""

    pixels: NDArray[np.uint8]
    """Shape (height, width, 3), RGB, or (height, width), gray; 0..255."""
    changes: Sequence[ColourChange]
    """What happens to its colours, in this order."""
    sigma_px: float
    """Standard deviation of the blur that follows; 0: none."""


def paint(view: ShapedView, kernel_px: int) -> NDArray[np.uint8]:
    """Return a view with its colours and blur, shape (height, width, 3).

    Args:
        view: The view and how it is to be painted.
        kernel_px: Side of the blur's kernel, at most; odd.
    """
    pixels = _recolour(view.pixels, view.changes)
    if view.sigma_px > _SMALLEST_SIGMA_PX and kernel_px > 1:
        side = min(kernel_px, 2 * math.ceil(_REACH_SIGMAS * view.sigma_px) + 1)
        kernel = cv2.getGaussianKernel(side, view.sigma_px, cv2.CV_32F)
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def _recolour(pixels: NDArray[np.uint8], changes: Sequence[ColourChange]) -> NDArray[np.uint8]:
    is_gray = pixels.ndim == 2
    pending, means = np.eye(3, 4), None
    for change in changes:
        if is_gray and not change.mean_share and math.isclose(change.matrix[0].sum(), 1):
            continue
        matrix = change.matrix @ pending
        if change.mean_share:
            means = _channel_means(pixels) if means is None else means
            matrix[:, 3] += change.mean_share * (_LUMA @ pending @ means)
        pending = matrix
        if change.may_cut and change is not changes[-1]:
            pixels = _apply(pixels, pending)
            pending, means = np.eye(3, 4), None
    return _apply(pixels, pending)


def _channel_means(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    means = cv2.mean(pixels)
    return np.array([*((means[0],) * 3 if pixels.ndim == 2 else means[:3]), 1.0])


def _apply(pixels: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        changed: NDArray[np.uint8] = cv2.transform(pixels, matrix.astype(np.float32))
        return changed
    # All rows of the matrix give the same gray.
    values = matrix[0, :3].sum() * np.arange(256) + matrix[0, 3]
    changed = cv2.LUT(pixels, np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return changed


def stack_changes(changes: Sequence[ColourChange], count: int) -> NDArray[np.float32]:
    """Return changes as `paint_batch` takes them, shape (count, 3, 4), filled up with none."""
    stacked = np.broadcast_to(np.eye(3, 4, dtype=np.float32), (count, 3, 4)).copy()
    for place, change in enumerate(changes):
        stacked[place] = np.column_stack([change.matrix, np.full(3, change.mean_share)])
    return stacked


def paint_batch(pixels: Tensor, changes: Tensor, sigmas_px: Tensor, kernel_px: int) -> Tensor:
    """Return what `paint` returns, up to rounding, for a batch on any device.

    Args:
        pixels: Shape (N, 3, H, W), uint8.
        changes: Each view's changes as `stack_changes` returns them, shape (N, K, 3, 4).
        sigmas_px: Shape (N,); 0: no blur.
        kernel_px: Side of the blur's kernel; odd.

    Returns:
        Shape (N, 3, H, W), uint8.
    """
    images, channels = pixels.shape[:2]
    luma = torch.tensor(_LUMA, dtype=torch.float32, device=pixels.device)
    colours = pixels.float()
    for change in changes.unbind(dim=1):
        mean = colours.mean(dim=(2, 3)) @ luma
        offset = change[:, :, 3] * mean[:, None]
        colours = torch.einsum("ncd,ndhw->nchw", change[:, :, :3], colours)
        colours = (colours + offset[:, :, None, None]).clamp_(0, 255)
    reach = kernel_px // 2
    if reach:
        offsets = torch.arange(-reach, reach + 1, device=pixels.device)
        sigmas = sigmas_px.clamp(min=_SMALLEST_SIGMA_PX / 2)[:, None]
        kernels = torch.exp(-0.5 * (offsets / sigmas) ** 2)
        kernels = kernels / kernels.sum(dim=1, keepdim=True)
        # Every channel of every image is a group with a kernel of its own.
        kernels = kernels.repeat_interleave(channels, dim=0)[:, None]
        flat = F.pad(colours, [reach] * 4, mode="reflect").flatten(0, 1)[None]
        flat = F.conv2d(flat, kernels[:, :, None, :], groups=images * channels)
        flat = F.conv2d(flat, kernels[:, :, :, None], groups=images * channels)
        colours = flat.view_as(pixels)
    return colours.round_().clamp_(0, 255).to(torch.uint8)
