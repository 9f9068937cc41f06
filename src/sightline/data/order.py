"""The order in which an epoch goes through a data set that no memory holds.

A shuffle of single images would ask the store for each alone. Here ranges of neighbours are
shuffled, dealt to lanes, and mixed within a lane over a window of several ranges. Lanes, not
processes, divide the work, so the order is the same for any number of processes that divides them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.data.randomness import derived_seed

Integers = NDArray[np.int64]


class Picked(NamedTuple):
    """Images of a batch: each one's range, and its place among that range's images, shape (N,)."""

    ranges: Integers
    places: Integers


class EpochOrder:
    """A pure function of the seed and the epoch; any step's images are found by arithmetic.

    Each lane has an equal part of the epoch's images, and every batch takes equally from each. A
    range may be cut between two lanes, so that lanes are equal to the image; what is left over when
    the last whole batch is full is another part in each epoch. Where all lanes mix a whole data set
    at once, each mixes all its ranges; of no more ranges than lanes, single images are dealt.
    """

    def __init__(
        self,
        range_counts: Sequence[int] | Integers,
        *,
        batch_size: int,
        lanes: int,
        mix_ranges: int,
        seed: int,
    ) -> None:
        """Take the images of each range.

        Args:
            range_counts: How many images each range holds, shape (R,).
            batch_size: Images of a batch over all lanes.
            lanes: Equal shares of each batch; divides `batch_size`.
            mix_ranges: Ranges of a lane that are mixed with each other.
            seed: Seed of the whole training.

        Raises:
            ValueError: If `lanes` does not divide `batch_size`.
        """
        if batch_size % lanes:
            raise ValueError(f"lanes must divide batch_size {batch_size}, got {lanes}")
        counts = np.asarray(range_counts, dtype=np.int64)
        self.images = int(counts.sum())
        self.lanes = lanes
        self.steps_per_epoch = self.images // batch_size
        self._share = batch_size // lanes
        self._seed = seed
        self._ranges = np.flatnonzero(counts)
        # A lane's part may begin and end inside a range, so it touches more than its share; a
        # window of these few alone would not be mixed with the others.
        fits = len(self._ranges) <= lanes * mix_ranges
        self._mix_ranges = len(self._ranges) if fits else mix_ranges
        self._first_places = np.zeros(len(self._ranges), dtype=np.int64)
        self._counts = counts[self._ranges]
        # Single images are permuted only where that is cheap: it makes each process read every
        # range, and so few are read by several processes anyway.
        if len(self._ranges) <= lanes:
            starts = np.cumsum(self._counts) - self._counts
            self._first_places = np.arange(self.images) - np.repeat(starts, self._counts)
            self._ranges = np.repeat(self._ranges, self._counts)
            self._counts = np.ones(self.images, dtype=np.int64)

    def batches(
        self, epoch: int, *, start_step: int = 0, lanes: Sequence[int] | None = None
    ) -> Iterator[Picked]:
        """Yield an epoch's batches from a step on, lane after lane within a batch.

        Args:
            epoch: Which epoch; any number.
            start_step: The first step that is wanted; what lies before costs nothing.
            lanes: The lanes that are wanted; None means all.
        """
        chosen = range(self.lanes) if lanes is None else lanes
        shuffled = _Shuffled(self, epoch)
        streams = [shuffled.lane(lane, start_step) for lane in chosen]
        for parts in zip(*streams, strict=True):
            yield shuffled.find(np.concatenate(parts))


class _Shuffled:
    """One epoch: the units in their order, and positions counted along it."""

    def __init__(self, order: EpochOrder, epoch: int) -> None:
        random = np.random.default_rng(derived_seed("epoch order", order._seed, epoch))
        self._order = order
        self._epoch = epoch
        self._units = random.permutation(len(order._ranges))
        self._counts = order._counts[self._units]
        self._ends = np.cumsum(self._counts)
        # Where a range is cut, other images fall on either side in each epoch.
        self._turn = int(random.integers(2**31))

    def lane(self, lane: int, start_step: int) -> Iterator[Integers]:
        """Yield the positions that a lane gives to each batch."""
        order = self._order
        size = order.steps_per_epoch * order._share
        begin, end = lane * size, (lane + 1) * size
        position = begin + start_step * order._share
        rest = np.empty(0, dtype=np.int64)
        while position < end:
            while len(rest) < order._share:
                rest = np.concatenate([rest, self._window(lane, begin, end, position + len(rest))])
            yield rest[: order._share]
            rest = rest[order._share :]
            position += order._share

    def find(self, positions: Integers) -> Picked:
        """Return the images at some positions."""
        place = np.searchsorted(self._ends, positions, side="right")
        count = self._counts[place]
        inside = (positions - (self._ends[place] - count) + self._turn) % count
        unit = self._units[place]
        return Picked(self._order._ranges[unit], self._order._first_places[unit] + inside)

    def _window(self, lane: int, begin: int, end: int, position: int) -> Integers:
        """Return the mixed positions of the window that holds a position, from there on."""
        mix = self._order._mix_ranges
        first, unit = np.searchsorted(self._ends, [begin, position], side="right")
        window = (unit - first) // mix
        low, high = first + window * mix, min(first + (window + 1) * mix, len(self._ends))
        window_begin = max(begin, int(self._ends[low] - self._counts[low]))
        window_end = min(end, int(self._ends[high - 1]))
        seed = derived_seed("window", self._order._seed, self._epoch, lane, int(window))
        mixed = np.random.default_rng(seed).permutation(window_end - window_begin) + window_begin
        return mixed[position - window_begin :]
