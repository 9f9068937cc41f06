"""NT-Xent, the contrastive loss of SimCLR, over the batches of all processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightline.training import distributed

_TILE = 512  # even: an image's two views fall into one part
_LOWEST_BOUNDED_TEMPERATURE = 0.03  # exp(-2 / 0.03) is 1e-29; float32 ends at 1e-38


def nt_xent_loss(
    first: Tensor, second: Tensor, temperature: float, groups: Tensor | None = None
) -> Tensor:
    """Pull two views of one image together and push every other image away.

    The normalised temperature-scaled cross entropy of SimCLR (Chen et al. 2020,
    arXiv:2002.05709, equation 1), averaged over the 2N anchors of a batch. Where several
    processes train together, each passes its own views and compares them with the views of all
    of them; every process returns the loss of the whole batch, and the mean of the processes'
    gradients is what one process with the whole batch computes.

    The table of similarities is never held whole: it is computed in tiles, and again for the
    gradient, so memory grows with N and not with its square. It is symmetric, so half its tiles
    suffice, and the processes share them.

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
        pairs = torch.stack([first, second], dim=1)
        exact = pairs if pairs.dtype == torch.float64 else pairs.float()
        views = F.normalize(exact, dim=2).flatten(0, 1)
        everyones = None if groups is None else distributed.all_gather(groups)
        # torch gives `apply` no types.
        return _ContrastiveCost.apply(views, temperature, everyones)  # type: ignore[no-any-return]


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


class _Tile(NamedTuple):
    """A piece of the table; with it its mirror image, unless it lies on the diagonal."""

    rows: slice
    columns: slice

    @property
    def on_diagonal(self) -> bool:
        return self.rows == self.columns


class _Table:
    """The similarities of all views of all processes, divided by the temperature.

    Two views of one image are neighbours, rows 2k and 2k + 1, so what an image shares with
    itself lies in the tiles on the diagonal. Those are left out, and the likeness of the two
    views is added by itself (`partners`).
    """

    def __init__(self, views: Tensor, temperature: float, groups: Tensor | None) -> None:
        self.views = views
        self.temperature = temperature
        self._groups = None if groups is None else groups.repeat_interleave(2)
        self._images = torch.arange(_TILE, device=views.device) // 2
        self.bounded = temperature >= _LOWEST_BOUNDED_TEMPERATURE
        self.partners = (views[0::2] * views[1::2]).sum(dim=1).repeat_interleave(2) / temperature

    def upper_bounds(self) -> Tensor:
        """Return what to take off every logit before the exponential, or off each row's logits.

        A cosine is at most 1, so 1 / temperature bounds them all. At a low temperature a row far
        below that bound would underflow, so each row's largest logit is looked for.
        """
        if self.bounded:
            return self.partners.new_tensor(1 / self.temperature)
        largest = self.partners.clone()
        for tile in self.own_tiles():
            logits = self.logits(tile)
            for part, dim in ((tile.rows, 1), (tile.columns, 0)):
                largest[part] = torch.maximum(largest[part], logits.amax(dim=dim))
        return distributed.all_reduce_max(largest)

    def own_tiles(self) -> Iterator[_Tile]:
        """Yield this process's share of the tiles on and above the diagonal."""
        size = len(self.views)
        parts = [slice(start, min(start + _TILE, size)) for start in range(0, size, _TILE)]
        tiles = itertools.combinations_with_replacement(parts, 2)
        for rows, columns in itertools.islice(
            tiles, distributed.rank(), None, distributed.world_size()
        ):
            yield _Tile(rows, columns)

    def logits(self, tile: _Tile) -> Tensor:
        """Return a tile, shape (rows, columns), with -inf where a view is no negative."""
        rows, columns = self.views[tile.rows], self.views[tile.columns]
        logits = (rows @ columns.T).div_(self.temperature)
        if self._groups is not None:
            same = self._groups[tile.rows, None] == self._groups[tile.columns]
            logits.masked_fill_(same, -torch.inf)
        elif tile.on_diagonal:
            images = self._images[: len(rows)]
            logits.masked_fill_(images[:, None] == images, -torch.inf)
        return logits


class _ContrastiveCost(torch.autograd.Function):
    """The mean over all anchors of log(sum of exp(logits)) - logit of the partner."""

    @staticmethod
    def forward(
        context: Any, own_views: Tensor, temperature: float, groups: Tensor | None
    ) -> Tensor:
        table = _Table(distributed.all_gather(own_views), temperature, groups)
        bounds = table.upper_bounds()
        sums = torch.zeros_like(table.partners)
        for tile in table.own_tiles():
            logits = table.logits(tile)
            if bounds.ndim == 0:
                by_row = by_column = logits.sub_(bounds).exp_()
            else:
                by_row = (logits - bounds[tile.rows, None]).exp_()
                by_column = logits.sub_(bounds[tile.columns]).exp_()
            sums[tile.rows] += by_row.sum(dim=1)
            if not tile.on_diagonal:
                sums[tile.columns] += by_column.sum(dim=0)
        sums = distributed.all_reduce_sum(sums)
        log_sums = sums.add_((table.partners - bounds).exp_()).log_().add_(bounds)
        context.save_for_backward(table.views, log_sums, groups)
        context.temperature = temperature
        return (log_sums - table.partners).mean()

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        views, log_sums, groups = context.saved_tensors
        table = _Table(views, context.temperature, groups)
        # Softmax of a row is exp(logit - bound) times the row's weight, or exp(logit - log_sum).
        weights = (1 / context.temperature - log_sums).exp_() if table.bounded else None
        gradient = torch.zeros_like(views)
        for tile in table.own_tiles():
            logits = table.logits(tile)
            if weights is not None:
                both = logits.sub_(1 / context.temperature).exp_()
                both.mul_(weights[tile.rows, None] + weights[tile.columns])
            else:
                both = (logits - log_sums[tile.rows, None]).exp_()
                both += logits.sub_(log_sums[tile.columns]).exp_()
            gradient[tile.rows].addmm_(both, views[tile.columns])
            if not tile.on_diagonal:
                gradient[tile.columns].addmm_(both.T, views[tile.rows])
        own = distributed.own_part(distributed.all_reduce_sum(gradient))
        certainties = (table.partners - log_sums).exp_()
        pull = distributed.own_part(certainties + _swap_views(certainties) - 2)
        own = own.addcmul(pull[:, None], _swap_views(distributed.own_part(views)))
        # Data-parallel training takes the mean over the processes; each has its own views only.
        scale = gradients[0] * distributed.world_size() / (len(views) * context.temperature)
        return own * scale, None, None


def _swap_views(rows: Tensor) -> Tensor:
    """Give each view what the other view of its image has."""
    return rows.view(-1, 2, *rows.shape[1:]).flip(1).flatten(0, 1)
