"""Colours and blur of SimCLR's views, by OpenCV or for a whole batch on a device.

Brightness, contrast, saturation, hue and the loss of colour each make a pixel's new colour a linear
function of its old one and of the view's mean luminance, cut to 0..255. Where nothing can be cut
between two of them they become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

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
_SAME, _UNCHANGED = np.eye(3), np.eye(3, 4)
# A neighbour that counts less than half a level of 255 changes nothing.
_SMALLEST_SIGMA_PX = 1 / math.sqrt(2 * math.log(510))
_REACH_SIGMAS = 3.0


class ColourChange(NamedTuple):
    """A new colour is matrix · colour + mean_share · the view's mean luminance, cut to 0..255."""

    kind: Literal["brightness", "contrast", "saturation", "hue"]
    """What is multiplied: every value; its distance from the view's mean luminance; a colour's
    distance from the gray of its luminance. Or the hue is turned, in YIQ: luminance stays."""
    amount: float
    """The factor; of the hue: the share of the colour circle, from red towards green."""

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Shape (3, 3)."""
        if self.kind == "hue":
            angle = -2 * math.pi * self.amount
            turn = np.eye(3)
            turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            turned: NDArray[np.float64] = _FROM_YIQ @ turn @ _TO_YIQ
            return turned
        matrix = self.amount * _SAME
        return matrix + (1 - self.amount) * _LUMA if self.kind == "saturation" else matrix

    @property
    def gray_factor(self) -> float:
        """What the matrix does to equal channels: its rows' sum."""
        return 1.0 if self.kind in ("saturation", "hue") else self.amount

    @property
    def mean_share(self) -> float:
        """Share of the mean luminance that is added."""
        return 1 - self.amount if self.kind == "contrast" else 0.0

    @property
    def may_cut(self) -> bool:
        """Whether the result may lie outside 0..255."""
        return self.amount != 0 if self.kind == "hue" else self.amount > 1


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
    pixels = view.pixels
    if view.changes:
        recolour = _recolour_gray if pixels.ndim == 2 else _recolour
        pixels = recolour(pixels, view.changes)
    if view.sigma_px > _SMALLEST_SIGMA_PX and kernel_px > 1:
        side = min(kernel_px, 2 * math.ceil(_REACH_SIGMAS * view.sigma_px) + 1)
        kernel = cv2.getGaussianKernel(side, view.sigma_px, cv2.CV_32F)
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def _recolour(pixels: NDArray[np.uint8], changes: Sequence[ColourChange]) -> NDArray[np.uint8]:
    pending, means = _UNCHANGED, None
    for change in changes:
        matrix = change.matrix @ pending
        if change.mean_share:
            means = np.array([*cv2.mean(pixels)[:3], 1.0]) if means is None else means
            matrix[:, 3] += change.mean_share * (_LUMA @ pending @ means)
        pending = matrix
        if change.may_cut and change is not changes[-1]:
            pixels = cv2.transform(pixels, pending.astype(np.float32))
            pending, means = _UNCHANGED, None
    changed: NDArray[np.uint8] = cv2.transform(pixels, pending.astype(np.float32))
    return changed


def _recolour_gray(pixels: NDArray[np.uint8], changes: Sequence[ColourChange]) -> NDArray[np.uint8]:
    factor, offset = 1.0, 0.0
    for change in changes:
        if change.gray_factor == 1 and not change.mean_share:
            continue
        if change.mean_share:
            mean = factor * cv2.mean(pixels)[0] + offset
            offset = change.gray_factor * offset + change.mean_share * mean
        else:
            offset *= change.gray_factor
        factor *= change.gray_factor
        if change.may_cut and change is not changes[-1]:
            pixels = cv2.addWeighted(pixels, factor, pixels, 0.0, offset)
            factor, offset = 1.0, 0.0
    changed: NDArray[np.uint8] = cv2.addWeighted(pixels, factor, pixels, 0.0, offset)
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
