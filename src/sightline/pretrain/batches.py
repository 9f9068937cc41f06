"""Which images each step sees, and their views as tensors: equal whatever the processes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sightline.data import derived_seed
from sightline.pretrain.augment import SimCLRViews
from sightline.pretrain.config import PretrainConfig
from sightline.training import distributed

Batch = tuple[Tensor, Tensor, Tensor]
"""First views, second views (N, 3, S, S) in 0..1, and the images' places in the data set (N,)."""


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch, counted from 1, goes through the images."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(count, generator=generator).tolist()


class RankBatches(Sampler[list[tuple[int, int]]]):
    """One process's share of every global batch, as pairs of epoch and image, for all epochs.

    Every process has the same number of steps and of images; the last, incomplete batch of an
    epoch is left out, for NT-Xent depends on the size of its batch.
    """

    def __init__(self, count: int, config: PretrainConfig, rank: int, world_size: int) -> None:
        self._count = count
        self._config = config
        self._share = config.global_batch_size // world_size
        self._start = rank * self._share
        self.steps_per_epoch = count // config.global_batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch * self._config.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(1, self._config.epochs + 1):
            order = epoch_order(self._count, self._config.seed, epoch)
            for step in range(self.steps_per_epoch):
                start = step * self._config.global_batch_size + self._start
                yield [(epoch, index) for index in order[start : start + self._share]]


def chance_loss(groups: Sequence[str], config: PretrainConfig) -> float:
    """Return the mean NT-Xent loss, in nats, of the training's batches if they had no signal.

    All candidates of an anchor are then equally likely: 2N - 1 in a batch of N images, and with
    `exclude_group_negatives` two fewer for each other image of the anchor's group.

    Args:
        groups: Each image's group.
        config: The settings; they fix which images meet in a batch.
    """
    size = config.global_batch_size
    if not config.exclude_group_negatives:
        return math.log(2 * size - 1)
    batches = RankBatches(len(groups), config, rank=0, world_size=1)
    total = 0.0
    for batch in batches:
        together = Counter(groups[index] for _, index in batch)
        total += sum(n * math.log(2 * (size - n) + 1) for n in together.values())
    return total / (len(batches) * size)


class ViewDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Two fresh views of an image for each pair of epoch and place."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], config: PretrainConfig) -> None:
        self._images = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images]
        self._views = SimCLRViews(config)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        return (*self._views(self._images[index], epoch, index), index)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor, int]]:
        # Work on one small image is too short to be divided: on a busy machine two threads
        # that wait for each other cost 12 times the processor time of one.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[key] for key in keys]
        finally:
            torch.set_num_threads(threads)


def load_batches(
    images: Sequence[NDArray[np.uint8]], config: PretrainConfig, device: torch.device
) -> tuple[Iterator[Batch], int]:
    """Return this process's batches of all epochs, one after another, and the steps per epoch."""
    sampler = RankBatches(len(images), config, distributed.rank(), distributed.world_size())
    loader: DataLoader[tuple[Tensor, Tensor, int]] = DataLoader(
        ViewDataset(images, config),
        batch_sampler=sampler,
        num_workers=_loader_processes(config, device),
        pin_memory=device.type == "cuda",
    )
    return iter(loader), sampler.steps_per_epoch


def _loader_processes(config: PretrainConfig, device: torch.device) -> int:
    if config.loader_processes >= 0:
        return config.loader_processes
    if device.type == "cpu":
        return 0
    return max(1, (os.cpu_count() or 1) // config.workers)
