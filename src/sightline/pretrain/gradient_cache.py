"""Batches larger than memory: a batch goes through the network in passes, its loss spans it all.

Gradient caching (Gao et al. 2021, arXiv:2101.06983). The loss needs the projections of the whole
batch, but not what the network computed on the way to them, which is what fills the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sightline.training import distributed
from sightline.training.batch_norm import running_statistics_kept


def backward_in_passes(
    network: nn.Module,
    passes: Sequence[Tensor],
    project: Callable[[Tensor], Tensor],
    cost: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the loss of a whole batch to the parameters, a pass at a time.

    Every pass is computed twice: first without a gradient, for the loss and its gradient with
    respect to the projections; then again, for the parameters. Both see the same views with the
    same weights, so they compute the same projections, and no gradient is lost. BatchNorm
    normalises each pass by itself, both times alike, and its running statistics follow the second
    time only. Processes must take equally many passes; gradients are averaged once, in the last.

    Args:
        network: What `project` calls; of several processes, what `distributed.data_parallel` gave.
        passes: The numbers of the images of each pass, in the order in which `cost` gets them. One
            pass is computed once, as without a cache.
        project: Returns projections (2n, D) of both views of n images, first views first.
        cost: Returns the loss of the batch from its projections, one view of all images (N, D) and
            the other.

    Returns:
        The loss, and the projections of the batch (2N, D); both without a gradient.
    """
    if len(passes) == 1:
        projections = project(passes[0])
        loss = cost(*projections.chunk(2))
        torch.autograd.backward(loss)
        return loss.detach(), projections.detach()
    with torch.no_grad(), running_statistics_kept(network):
        parts = [project(images).chunk(2) for images in passes]
    first, second = (torch.cat(views).requires_grad_() for views in zip(*parts, strict=True))
    loss = cost(first, second)
    sizes = [len(images) for images in passes]
    by_view = [torch.split(g, sizes) for g in torch.autograd.grad(loss, [first, second])]
    *before, last = zip(passes, map(torch.cat, zip(*by_view, strict=True)), strict=True)
    with distributed.gradients_not_averaged(network):
        for images, gradient in before:
            torch.autograd.backward(project(images), gradient)
    images, gradient = last
    torch.autograd.backward(project(images), gradient)
    return loss.detach(), torch.cat([first, second]).detach()


def divide(images: int, lanes: int, passes: int) -> list[Tensor]:
    """Return which of a process's images each pass takes: equally many from each lane.

    So a pass of all processes holds the same images for any number of processes.

    Args:
        images: The process's share of a batch, lane after lane.
        lanes: The lanes that it consists of.
        passes: How many passes; at most the images of a lane.
    """
    by_lane = torch.arange(images).view(lanes, -1)
    return [part.flatten() for part in by_lane.tensor_split(passes, dim=1)]
