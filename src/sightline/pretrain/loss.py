"""NT-Xent, the contrastive loss of SimCLR, over the batches of all processes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.training import distributed


def nt_xent_loss(
    first: Tensor, second: Tensor, temperature: float, groups: Tensor | None = None
) -> Tensor:
    """Pull two views of one image together and push every other image away.

    The normalised temperature-scaled cross entropy of SimCLR (Chen et al. 2020,
    arXiv:2002.05709, equation 1), averaged over the 2N anchors of a batch. Where several
    processes train together, each passes its own views and compares them with the views of all
    of them; the mean of the processes' losses, and of their gradients, is what one process
    with the whole batch computes.

    Args:
        first: Projections of one view of each image, shape (N, D), of any length.
        second: Projections of the other view, in the shape and order of `first`.
        temperature: Divisor of the cosine similarities; no unit, above 0.
        groups: A number for each image, shape (N,); images of one group are then left out of
            each other's negatives.

    Returns:
        A scalar in nats; a batch of N images that carries no signal costs ln(2N - 1).

    Raises:
        ValueError: If the shapes differ, or N is 1 and no image is a negative.
    """
    if first.shape != second.shape:
        raise ValueError(f"views differ in shape: {tuple(first.shape)}, {tuple(second.shape)}")
    if len(first) * distributed.world_size() < 2:
        raise ValueError(
            f"a contrastive batch needs at least 2 images, got {len(first)}: "
            "raise global_batch_size, or drop the last incomplete batch"
        )
    # bfloat16 rounds a similarity just below 1 to steps of 1/256, and a temperature
    # of 0.07 multiplies that error by fourteen, so autocast stops here.
    with torch.autocast(first.device.type, enabled=False):
        first, second = (_unit_length(views) for views in (first, second))
        anchors = torch.cat([first, second])
        candidates = torch.cat([distributed.all_gather(first), distributed.all_gather(second)])
        similarities = anchors @ candidates.T
        own, partners = _places(len(first), first.device)
        excluded = _same_place(own, len(candidates))
        if groups is not None:
            everyones = distributed.all_gather(groups).repeat(2)
            excluded |= groups.repeat(2)[:, None] == everyones
            excluded[torch.arange(len(own), device=own.device), partners] = False
        return contrastive_cross_entropy(similarities, partners, excluded, temperature)


def chance_loss(images: int, groups: Tensor | None = None) -> float:
    """Return what NT-Xent costs, in nats, on a batch of all processes that carries no signal.

    All candidates of an anchor are then equally likely: 2N - 1 in a batch of N images, and where
    groups are left out of the negatives two fewer for each other image of the anchor's group.

    Args:
        images: N, over all processes.
        groups: A number for each of them, shape (N,), as `nt_xent_loss` was given.
    """
    if groups is None:
        return math.log(2 * images - 1)
    together = (groups[:, None] == groups).sum(dim=1).double()
    return torch.log(2 * (images - together) + 1).mean().item()


def contrastive_cross_entropy(
    similarities: Tensor, partners: Tensor, excluded: Tensor, temperature: float
) -> Tensor:
    """Return the mean cost of not telling each anchor's partner from the other candidates.

    Args:
        similarities: Cosine similarities, shape (anchors, candidates).
        partners: The candidate that is each anchor's positive, shape (anchors,).
        excluded: True where a candidate does not count, shape (anchors, candidates).
        temperature: Divisor of the similarities.
    """
    logits = (similarities / temperature).masked_fill(excluded, -torch.inf)
    return F.cross_entropy(logits, partners)


def _unit_length(views: Tensor) -> Tensor:
    exact = views if views.dtype == torch.float64 else views.float()
    return F.normalize(exact, dim=1)


def _places(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where this process's anchors, and their partners, stand among the candidates."""
    total = count * distributed.world_size()
    here = torch.arange(count, device=device) + distributed.rank() * count
    own = torch.cat([here, here + total])
    return own, own.roll(count)


def _same_place(own: Tensor, candidates: int) -> Tensor:
    return own[:, None] == torch.arange(candidates, device=own.device)
