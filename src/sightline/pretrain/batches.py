"""Which images each step sees, and their views as tensors: equal whatever the processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sightline.config import UserError
from sightline.data import derived_seed
from sightline.data.images import decode_image
from sightline.data.stream import StreamedImage
from sightline.machine import usable_cores
from sightline.pretrain.augment import SimCLRViews
from sightline.pretrain.config import PretrainConfig
from sightline.training import distributed

Batch = tuple[Tensor, Tensor, Tensor]
"""First views, second views (N, 3, S, S) in 0..1, and the numbers of the images' groups (N,)."""

EpochImage = tuple[int, StreamedImage]
"""An epoch, counted from 1, and one of the images it sees."""


class ImageBatches(Protocol):
    """Where training images come from: a data set's shards, or a notebook's arrays."""

    images: int
    steps_per_epoch: int

    def batches(
        self, epoch: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[list[StreamedImage]]:
        """Yield one process's share of every batch of an epoch, from a step on."""
        ...


class TrainingOrder(Sampler[list[EpochImage]]):
    """One process's share of every global batch, for all epochs from a position on.

    Every process has the same number of steps and of images; the last, incomplete batch of an
    epoch is left out, for NT-Xent depends on the size of its batch.
    """

    def __init__(
        self,
        source: ImageBatches,
        epochs: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_epoch: int = 1,
        start_step: int = 0,
    ) -> None:
        self._source = source
        self._epochs = epochs
        self._rank = rank
        self._world_size = world_size
        self._start = (start_epoch, start_step)

    def __len__(self) -> int:
        epoch, step = self._start
        return (self._epochs - epoch + 1) * self._source.steps_per_epoch - step

    def __iter__(self) -> Iterator[list[EpochImage]]:
        first_epoch, first_step = self._start
        for epoch in range(first_epoch, self._epochs + 1):
            batches = self._source.batches(
                epoch,
                start_step=first_step if epoch == first_epoch else 0,
                rank=self._rank,
                world_size=self._world_size,
            )
            for batch in batches:
                yield [(epoch, image) for image in batch]


class ViewDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Two fresh views of each image, and its group's number.

    The batch sampler brings the stored bytes along, so that a loader's process decodes and
    draws, but opens no connection.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self._views = SimCLRViews(config)

    def __getitem__(self, key: EpochImage) -> tuple[Tensor, Tensor, int]:
        epoch, (index, sample, content) = key
        pixels = torch.from_numpy(decode_image(content).transpose(2, 0, 1).copy())
        return (*self._views(pixels, epoch, index), group_number(sample.group))

    def __getitems__(self, keys: list[EpochImage]) -> list[tuple[Tensor, Tensor, int]]:
        # Work on one small image is too short to be divided: on a busy machine two threads
        # that wait for each other cost 12 times the processor time of one.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[key] for key in keys]
        finally:
            torch.set_num_threads(threads)


def group_number(name: str) -> int:
    """Return a number that stands for a group, without a list of all groups.

    Of a million groups, two share one of the 2^63 numbers with a probability of 1 in 18 million.
    """
    return derived_seed("group", name)


def load_batches(
    source: ImageBatches,
    config: PretrainConfig,
    device: torch.device,
    *,
    start_epoch: int = 1,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Return this process's batches of all epochs, one after another, from a position on."""
    order = TrainingOrder(
        source,
        config.epochs,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        start_epoch=start_epoch,
        start_step=start_step,
    )
    loader: DataLoader[tuple[Tensor, Tensor, int]] = DataLoader(
        ViewDataset(config),
        batch_sampler=order,
        num_workers=_loader_processes(config, device),
        pin_memory=device.type == "cuda",
    )
    return _explained(iter(loader))


def _explained(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that draws views ended ({str(error).splitlines()[0]}): most often there "
            "was too little memory, so lower loader_processes, cache_mib or image_size"
        ) from None


def _loader_processes(config: PretrainConfig, device: torch.device) -> int:
    if config.loader_processes >= 0:
        return config.loader_processes
    if device.type == "cpu":
        return 0
    return max(1, usable_cores() // config.workers)
