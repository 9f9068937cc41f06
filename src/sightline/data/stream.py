"""Training images out of shards that stay where they are, in an order that can be resumed."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.data.cache import LoadCache
from sightline.data.dataset import PackedDataset, cut_members, prepare_again
from sightline.data.order import EpochOrder, Picked
from sightline.data.publish import SAMPLES_FILE
from sightline.data.samples import SPLITS, Sample, parse_samples
from sightline.errors import UserError
from sightline.storage import join_uri
from sightline.storage.verified import read_verified, refuse_altered

MIX_BYTES = 512 * 2**20
CACHE_BYTES = 2 * MIX_BYTES
"""The ranges that are mixed now, and those that come next."""

# Steps that are planned ahead; enough for a window's ranges to arrive before it begins.
_STEPS_AHEAD = 256


class StreamedImage(NamedTuple):
    """An image on its way into a batch."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name, unused here
    """Its place among the split's images, the same in every epoch."""
    sample: Sample
    content: bytes
    """Its stored bytes, verified."""


class _Range(NamedTuple):
    shard: int
    start: int
    size_bytes: int
    lines_start: int
    lines_bytes: int
    lines_sha256: str
    first_index: int


class ImageStream:
    """Batches of one split, read as ranges of shards, ahead and in threads.

    The list of samples is read range by range, too, so memory does not grow with the data set.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        batch_size: int,
        seed: int,
        lanes: int = 8,
        split: str = "train",
        cache_bytes: int = CACHE_BYTES,
        mix_bytes: int = MIX_BYTES,
        threads: int = 0,
    ) -> None:
        """Take a data set version.

        Args:
            dataset: The version, whole.
            batch_size: Images of a batch over all processes.
            seed: Seed of the order.
            lanes: Shares of each batch, at most; as many as divide `batch_size`.
            split: `train`, `val` or `test`.
            cache_bytes: Stored images of this process that are kept or read ahead; at less than
                twice its share of `mix_bytes`, ranges are read more than once.
            mix_bytes: Stored images of all lanes that are mixed with each other. The order
                depends on it.
            threads: Requests at once; 0: as many as the store is fastest with.
        """
        self._dataset = dataset
        self._split = split
        self._ranges, counts = _split_ranges(dataset, split)
        self.lanes = math.gcd(lanes, batch_size)
        mean_bytes = sum(r.size_bytes for r in self._ranges) // max(1, len(self._ranges))
        self.order = EpochOrder(
            counts,
            batch_size=batch_size,
            lanes=self.lanes,
            mix_ranges=max(1, mix_bytes // (self.lanes * max(1, mean_bytes))),
            seed=seed,
        )
        self.images = self.order.images
        self.steps_per_epoch = self.order.steps_per_epoch
        self._threads = threads or dataset.storage.parallel_requests
        self._cache: LoadCache[list[StreamedImage]] = LoadCache(
            self._read, lambda number: self._ranges[number].size_bytes, cache_bytes, self._threads
        )

    def batches(
        self, epoch: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[list[StreamedImage]]:
        """Yield one process's share of every batch of an epoch, from a step on.

        Args:
            epoch: Which epoch; each has an order of its own.
            start_step: The first step that is wanted; what lies before is not read.
            rank: Which process asks; it gets the lanes rank, rank + world_size, ….
            world_size: How many processes share each batch.

        Raises:
            UserError: If `world_size` does not divide the lanes, or bytes were altered.
        """
        steps = self.order.batches(
            epoch, start_step=start_step, lanes=lanes_of(rank, world_size, self.lanes)
        )
        return self._read_steps(steps)

    def _read_steps(self, steps: Iterator[Picked]) -> Iterator[list[StreamedImage]]:
        cache = self._cache
        ahead: deque[tuple[Picked, list[int]]] = deque()
        upcoming = next(steps, None)
        try:
            while ahead or upcoming:
                while upcoming:
                    needed = np.unique(upcoming.ranges).tolist()
                    if ahead and not self._has_room(needed, len(ahead)):
                        break
                    ahead.append((upcoming, needed))
                    for number in needed:
                        cache.pin(number)
                    upcoming = next(steps, None)
                picked, needed = ahead[0]
                images = {number: cache.get(number) for number in needed}
                pairs = zip(picked.ranges.tolist(), picked.places.tolist(), strict=True)
                batch = [images[number][place] for number, place in pairs]
                del images
                _unpin(cache, ahead.popleft()[1])
                yield batch
        finally:
            for _, needed in ahead:
                _unpin(cache, needed)
            cache.end_threads()

    def _has_room(self, needed: Sequence[int], steps_ahead: int) -> bool:
        cache = self._cache
        more = sum(self._ranges[n].size_bytes for n in needed if not cache.is_pinned(n))
        return (
            steps_ahead < _STEPS_AHEAD
            and cache.pinned_bytes + more <= cache.limit_bytes
            and cache.loading() < 2 * self._threads
        )

    def _read(self, number: int) -> list[StreamedImage]:
        shard = self._dataset.manifest["shards"][self._ranges[number].shard]["name"]
        where = join_uri(self._dataset.storage.uri, shard)
        return read_verified(where, lambda: self._read_once(number))

    def _read_once(self, number: int) -> list[StreamedImage]:
        dataset, part = self._dataset, self._ranges[number]
        lines_key = f"{dataset.version}/{SAMPLES_FILE}"
        lines = dataset.storage.read_bytes(lines_key, part.lines_start, part.lines_bytes)
        found = hashlib.sha256(lines).hexdigest()
        remedy = prepare_again(dataset.uri)
        refuse_altered(f"{dataset.uri}/{SAMPLES_FILE}", part.lines_sha256, found, remedy)
        samples = [sample for sample in parse_samples(lines) if sample.split == self._split]
        start = samples[0].offset_bytes
        end = samples[-1].offset_bytes + samples[-1].size_bytes
        shard = dataset.manifest["shards"][part.shard]["name"]
        content = dataset.storage.read_bytes(shard, start, end - start)
        shard_uri = join_uri(dataset.storage.uri, shard)
        members = cut_members(content, start, samples, shard_uri)
        indices = range(part.first_index, part.first_index + len(samples))
        return list(map(StreamedImage, indices, samples, members))


class ArrayStream:
    """The batches of images in memory, with the order of an `ImageStream`."""

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        groups: Sequence[str] | None = None,
        *,
        batch_size: int,
        seed: int,
        lanes: int = 8,
    ) -> None:
        """Take RGB images of shape (height, width, 3), 0..255, and each one's group if it has one.

        Raises:
            ValueError: If there are not as many groups as images.
        """
        if groups is not None and len(groups) != len(images):
            raise ValueError(
                f"each image needs a group: {len(images)} images, {len(groups)} groups"
            )
        self._images = images
        self._groups = groups
        self.lanes = math.gcd(lanes, batch_size)
        self.order = EpochOrder(
            [len(images)], batch_size=batch_size, lanes=self.lanes, mix_ranges=1, seed=seed
        )
        self.images = self.order.images
        self.steps_per_epoch = self.order.steps_per_epoch

    def batches(
        self, epoch: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[list[StreamedImage]]:
        """Yield one process's share of every batch, as `ImageStream.batches` does."""
        lanes = lanes_of(rank, world_size, self.lanes)
        steps = self.order.batches(epoch, start_step=start_step, lanes=lanes)
        return ([self._image(place) for place in step.places.tolist()] for step in steps)

    def _image(self, index: int) -> StreamedImage:
        pixels = self._images[index]
        height, width = pixels.shape[:2]
        # Uncompressed, and read back by the same decoder as stored images.
        content = b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(pixels).tobytes()
        sample = Sample(
            name=str(index),
            group=str(index) if self._groups is None else self._groups[index],
            split=SPLITS[0],
            sha256="",
            shard=0,
            offset_bytes=0,
            size_bytes=len(content),
            width=width,
            height=height,
        )
        return StreamedImage(index, sample, content)


def lanes_of(rank: int, world_size: int, lanes: int) -> range:
    """Return the lanes of one process.

    Raises:
        UserError: If the processes cannot share the lanes equally.
    """
    if lanes % world_size:
        raise UserError(
            f"the number of processes must divide the {lanes} lanes that images are read in, got "
            f"{world_size}: choose lanes and a batch size that are multiples of {world_size}"
        )
    return range(rank, lanes, world_size)


def _split_ranges(dataset: PackedDataset, split: str) -> tuple[list[_Range], list[int]]:
    """Return the ranges that hold images of a split, and how many each holds."""
    ranges, counts = [], []
    first_index = 0
    for number, shard in enumerate(dataset.manifest["shards"]):
        lines_start = shard["samples"][0]
        for start, size_bytes, *in_splits, lines_bytes, digest in shard["ranges"]:
            count = in_splits[SPLITS.index(split)]
            if count:
                place = (number, start, size_bytes, lines_start, lines_bytes, digest, first_index)
                ranges.append(_Range(*place))
                counts.append(count)
                first_index += count
            lines_start += lines_bytes
    return ranges, counts


def _unpin(cache: LoadCache[list[StreamedImage]], numbers: Sequence[int]) -> None:
    for number in numbers:
        cache.unpin(number)
