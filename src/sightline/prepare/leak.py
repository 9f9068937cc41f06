"""What a split that ignores groups would leak, measured without any training.

A split whose test images are drawn one by one is not drawn: its accuracy in the mean over all
draws is known. Whether the nearest thumbnail of a test image is its k-th likest of all depends on
whether those before are test images too, so each image counts with the chances of each k.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data import derived_seed
from sightline.prepare.near_copies import unit_vectors
from sightline.scoring.intervals import Interval, interval

_MAX_IMAGES = 10_000
_BLOCK = 1024
_RESAMPLES = 1000
# An image's neighbours are looked at as far as all but this share of the draws go.
_FARTHER_SHARE = 1e-6
_MAX_NEIGHBOURS = 64


@dataclass(frozen=True)
class Leak:
    """How well the nearest thumbnail names the class of a test image.

    Attributes:
        random_split: Accuracy, 0..1, in the mean over all splits whose test images, as many, are
            drawn one by one.
        random_split_interval: Its 95 % interval, by a bootstrap over all groups; None where one
            group alone has none.
        this_split: Accuracy, 0..1, with the split that was made.
        this_split_interval: Its 95 % interval, by a bootstrap over the groups of the test split.
        images: Labelled images that were looked at, whole groups.
        of: Labelled images there are.
    """

    random_split: float
    random_split_interval: list[float] | None
    this_split: float
    this_split_interval: list[float] | None
    images: int
    of: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `metrics.json`."""
        return asdict(self)


def measure_leak(
    thumbnails: NDArray[np.uint8],
    labels: NDArray[Any],
    is_test: NDArray[np.bool_],
    groups: NDArray[np.integer],
    seed: int,
    max_images: int = _MAX_IMAGES,
) -> Leak | None:
    """Return the accuracy of the nearest thumbnail with random splits and with this one.

    A random split that is much better than the split by group shows what it would have leaked.
    None: without a test image, or without any other, there is nothing to measure.

    Args:
        thumbnails: Gray pictures of the labelled images, shape (N, pixels), in memory or a
            memory map.
        labels: Class of each image, shape (N,), as numbers or names.
        is_test: Whether an image is in the test split, shape (N,); all others may be known.
        groups: Number of each image's group, shape (N,).
        seed: Draws the resamples of the intervals and, of a larger set, the groups that are
            looked at.
        max_images: Of more images than that, whole groups are drawn up to about this number.
    """
    rng = np.random.default_rng(derived_seed("leak", seed))
    rows = _draw_groups(groups, is_test, max_images, rng)
    labels, is_test, drawn = labels[rows], is_test[rows], groups[rows]
    if not 0 < is_test.sum() < len(rows):
        return None
    by_chance, hits = _compare(np.asarray(thumbnails[rows]), labels, is_test)
    random_split = _with_interval(by_chance, drawn, rng)
    this_split = _with_interval(hits, drawn[is_test], rng)
    return Leak(
        random_split=float(by_chance.mean()),
        random_split_interval=_ends(random_split),
        this_split=float(hits.mean()),
        this_split_interval=_ends(this_split),
        images=len(rows),
        of=len(groups),
    )


def chances_of_neighbours(images: int, tests: int) -> NDArray[np.float64]:
    """Return how often the k-th likest image of a test image is its likest outside the test split.

    The other test images are drawn from the others without replacement, so the first k - 1 are
    all among them, and the k-th is not, with a chance that falls fast as k grows.

    Args:
        images: How many there are, 2 or more.
        tests: How many of them a draw puts into the test split, at least 1 and not all.

    Returns:
        Shape (K,), at most 64, summing to 1: what lies farther is left out.
    """
    chances, farther = [], 1.0
    for k in range(1, min(_MAX_NEIGHBOURS, images - 1) + 1):
        is_known = (images - tests) / (images - k)
        chances.append(farther * is_known)
        farther *= 1 - is_known
        if farther < _FARTHER_SHARE:
            break
    return np.array(chances) / sum(chances)


def _draw_groups(
    groups: NDArray[np.integer],
    is_test: NDArray[np.bool_],
    max_images: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the rows of whole groups, of test and of the rest in their own shares."""
    if len(groups) <= max_images:
        return np.arange(len(groups))
    chosen = np.zeros(len(groups), dtype=bool)
    for part in (is_test, ~is_test):
        names, sizes = np.unique(groups[part], return_counts=True)
        order = rng.permutation(len(names))
        # The group that reaches the share is still taken, so no part is left empty.
        before = np.cumsum(sizes[order]) - sizes[order]
        drawn = names[order][before < max_images * part.sum() / len(groups)]
        chosen |= part & np.isin(groups, drawn)
    return np.flatnonzero(chosen)


def _compare(
    thumbnails: NDArray[np.uint8], labels: NDArray[Any], is_test: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each image its chance of being named right, and for each test image whether."""
    chances = chances_of_neighbours(len(labels), int(is_test.sum()))
    by_chance = np.empty(len(labels))
    nearest = np.empty(len(labels), dtype=np.int64)
    for start in range(0, len(labels), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(labels)))
        queries = unit_vectors(thumbnails[rows])
        likest = _Likest(len(rows), len(chances))
        likest_known = _Likest(len(rows), 1)
        for first in range(0, len(labels), _BLOCK):
            others = np.arange(first, min(first + _BLOCK, len(labels)))
            likeness = queries @ unit_vectors(thumbnails[others]).T
            likeness[rows[:, None] == others] = -np.inf  # an image is no neighbour of its own
            likest.add(likeness, others)
            likeness[:, is_test[others]] = -np.inf
            likest_known.add(likeness, others)
        by_chance[rows] = (labels[likest.in_order()] == labels[rows, None]) @ chances
        nearest[rows] = likest_known.in_order()[:, 0]
    return by_chance, (labels[nearest] == labels)[is_test].astype(np.float64)


class _Likest:
    """The likest images of some, found block by block."""

    def __init__(self, queries: int, neighbours: int) -> None:
        self._neighbours = neighbours
        self._likeness = np.full((queries, neighbours), -np.inf, dtype=np.float32)
        self._images = np.zeros((queries, neighbours), dtype=np.int64)

    def add(self, likeness: NDArray[np.float32], images: NDArray[np.int64]) -> None:
        """Take a block in: its likeness, shape (queries, block), and its images' numbers."""
        # In most blocks most queries find nothing that is likelier than what they have.
        asked = np.flatnonzero(likeness.max(axis=1) > self._likeness.min(axis=1))
        all_likeness = np.hstack([self._likeness[asked], likeness[asked]])
        size = (len(asked), len(images))
        all_images = np.hstack([self._images[asked], np.broadcast_to(images, size)])
        best = np.argpartition(-all_likeness, self._neighbours - 1, axis=1)[:, : self._neighbours]
        self._likeness[asked] = np.take_along_axis(all_likeness, best, axis=1)
        self._images[asked] = np.take_along_axis(all_images, best, axis=1)

    def in_order(self) -> NDArray[np.int64]:
        """Return the images, the likest first, shape (queries, neighbours)."""
        order = np.argsort(-self._likeness, axis=1, kind="stable")
        return np.take_along_axis(self._images, order, axis=1)


def _with_interval(
    hits: NDArray[np.float64], groups: NDArray[np.integer], rng: np.random.Generator
) -> Interval:
    """Return the mean with its interval over groups; one resample at a time is in memory."""
    _, place = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(place, hits), np.bincount(place)
    samples = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        drawn = rng.integers(0, len(sizes), len(sizes))
        samples[number] = sums[drawn].sum() / sizes[drawn].sum()
    return interval(float(hits.mean()), samples, len(sizes))


def _ends(found: Interval) -> list[float] | None:
    low, high = found["low"], found["high"]
    return None if low is None or high is None else [low, high]
