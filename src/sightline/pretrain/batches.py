"""Which images each step sees, and their views as tensors: equal whatever the processes."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sightline.data import derived_seed
from sightline.data.readahead import read_ahead
from sightline.data.stream import StreamedImage
from sightline.images import decode_as_stored
from sightline.machine import usable_cores
from sightline.pretrain.appearance import paint_batch, stack_changes
from sightline.pretrain.augment import SimCLRViews
from sightline.pretrain.config import PretrainConfig
from sightline.pretrain.fast_views import MAX_CHANGES, FastViews
from sightline.training import distributed
from sightline.training.preemption import WorkersLostError

Batch = tuple[Tensor, Tensor, Tensor]
"""First views, second views, uint8 (N, 3, S, S), and the numbers of the images' groups (N,)."""

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


class DrawnViews(NamedTuple):
    """The views of a batch as its loader leaves them."""

    pixels: Tensor
    """Shape (N, 2, S, S, 3), uint8."""
    groups: Tensor
    """Numbers of the images' groups, shape (N,)."""
    changes: Tensor
    """What is still to happen to their colours, shape (N, 2, K, 3, 4); empty: all is done."""
    sigmas_px: Tensor
    """Blur that is still to come, shape (N, 2); empty as `changes`."""


class ViewDataset(Dataset[DrawnViews]):
    """Two fresh views of each image of a batch, and the numbers of their groups.

    The batch sampler brings the stored bytes along, so that a loader's process decodes and
    draws, but opens no connection.
    """

    def __init__(self, config: PretrainConfig, paints: bool = True) -> None:
        """Take the settings, and whether colours come here or later, by `paint_batch`."""
        self._views = SimCLRViews(config) if paints else None
        self._shapes = FastViews(config)
        self._side = config.image_size

    def __getitem__(self, key: EpochImage) -> DrawnViews:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[EpochImage]) -> DrawnViews:
        # Work on one small image is too short to be divided among threads.
        with _one_opencv_thread():
            return self._draw(keys)

    def _draw(self, keys: list[EpochImage]) -> DrawnViews:
        pixels = np.empty((len(keys), 2, self._side, self._side, 3), np.uint8)
        unpainted = 0 if self._views else len(keys)
        changes = np.empty((unpainted, 2, MAX_CHANGES, 3, 4), np.float32)
        sigmas = np.empty((unpainted, 2), np.float32)
        for place, (epoch, (index, _, content)) in enumerate(keys):
            image = decode_as_stored(content)
            if self._views:
                pixels[place] = self._views(image, epoch, index)
                continue
            for view in (0, 1):
                shaped = self._shapes(image, epoch, index, view)
                gray = shaped.pixels.ndim == 2
                pixels[place, view] = shaped.pixels[:, :, None] if gray else shaped.pixels
                changes[place, view] = stack_changes(shaped.changes, MAX_CHANGES)
                sigmas[place, view] = shaped.sigma_px
        groups = [group_number(image.sample.group) for _, image in keys]
        arrays = (pixels, np.array(groups), changes, sigmas)
        return DrawnViews(*map(torch.from_numpy, arrays))


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
    # On a GPU the network leaves the processor free for everything else that can be moved there.
    paints = device.type == "cpu" or config.augmentation == "exact"
    views = ViewDataset(config, paints)
    processes = _loader_processes(config, device)
    if processes == 0 and config.augmentation == "fast":
        # One thread, while the network computes: OpenCV lets go of the interpreter meanwhile.
        drawn = read_ahead(views.__getitems__, order, threads=1, ahead=2)
    else:
        loader: DataLoader[DrawnViews] = DataLoader(
            views,
            batch_sampler=order,
            collate_fn=_as_drawn,
            num_workers=processes,
            pin_memory=device.type == "cuda",
            multiprocessing_context=_clean_processes() if processes else None,
            worker_init_fn=_end_with_trainer,
        )
        drawn = _ended_if_stalled(loader, 60 * config.stall_minutes) if processes else iter(loader)
    place = partial(_on_device, device=device, kernel_px=config.blur_kernel_px)
    if device.type == "cpu":
        return (place(part) for part in drawn)
    # Painted in a thread while the network computes the batch before.
    return read_ahead(place, drawn, threads=1, ahead=2)


def _as_drawn(drawn: Any) -> Any:
    return drawn  # a batch is drawn whole, so there is nothing to put together


def _on_device(drawn: DrawnViews, device: torch.device, kernel_px: int) -> Batch:
    pixels, groups, changes, sigmas = (part.to(device, non_blocking=True) for part in drawn)
    first, second = (pixels[:, view].permute(0, 3, 1, 2) for view in (0, 1))
    if len(changes):
        first, second = (
            paint_batch(views, changes[:, view], sigmas[:, view], kernel_px)
            for view, views in enumerate((first, second))
        )
    return first, second, groups


def _clean_processes() -> BaseContext:
    """Return a way to start processes that copy no thread's lock, as a fork of this one would.

    OpenCV, gloo and the store work in threads here: what one of them holds during a fork is never
    let go of in the copy, which then hangs. So all are forked from a process that has no thread.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # It, what it forks, and Python's tracker beside it are needed until we end, and we alone are
    # meant by who asks all of our group to. They inherit that these signals wait.
    wishes = [signal.SIGTERM, signal.SIGHUP]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wishes)
    try:
        resource_tracker.ensure_running()  # which lets SIGTERM through again
        signal.pthread_sigmask(signal.SIG_BLOCK, wishes)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _end_with_trainer(_number: int) -> None:
    trainer = multiprocessing.parent_process()
    assert trainer

    def watch() -> None:
        trainer.join()
        os._exit(1)  # it was killed, or no one would be here to see it end

    # torch watches the process that this one was forked from, which lives on as long as this does.
    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def loader_loss_told() -> Iterator[None]:
    """Tell in words if a process that draws views ends while the block runs.

    torch raises wherever this process is at the moment, most often in the midst of a step.

    Raises:
        WorkersLostError: If one has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkersLostError(
            f"a process that draws views ended ({str(error).splitlines()[0]}): most often there "
            "was too little memory, so lower loader_processes, cache_mib or image_size"
        ) from None


def _ended_if_stalled(loader: DataLoader[DrawnViews], seconds: float) -> Iterator[DrawnViews]:
    """Yield batches; if none comes for so long, end the processes, for torch notices those alone.

    Torch's own `timeout` would end the wait as well, but then it looks after nothing before.
    """
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    drawing = set(multiprocessing.active_children()) - others
    has_stalled = threading.Event()

    def end() -> None:
        for process in drawing:
            if process.is_alive():
                process.kill()  # one that hangs follows no SIGTERM

    def end_stalled() -> None:
        has_stalled.set()
        end()

    atexit.register(end)  # Python's own end of them asks by SIGTERM, and waits without a limit
    try:
        while True:
            watch = threading.Timer(seconds, end_stalled)
            watch.daemon = True
            watch.start()
            try:
                drawn = next(batches)
            except StopIteration:
                return
            finally:
                watch.cancel()
            yield drawn
    except RuntimeError:
        if not has_stalled.is_set():
            raise
        raise WorkersLostError(
            f"no process that draws views answered for {seconds:g} s: most often the machine is "
            "out of memory or cores, so lower loader_processes, or raise stall_minutes"
        ) from None
    finally:
        del batches  # torch asks them, too, and waits for 5 s
        end()
        atexit.unregister(end)


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Leave OpenCV the caller's thread alone, and end those it has started."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _loader_processes(config: PretrainConfig, device: torch.device) -> int:
    if config.loader_processes >= 0:
        return config.loader_processes
    if device.type == "cpu":
        return 0
    return max(1, usable_cores() // config.workers)
