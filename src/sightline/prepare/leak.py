"""What a split that ignores groups would leak, measured without any training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data import derived_seed
from sightline.prepare.near_copies import unit_vectors

_MAX_IMAGES = 20_000
_BLOCK = 1024


@dataclass(frozen=True)
class Leak:
    """How well the nearest thumbnail names the class of a test image.

    Attributes:
        random_split: Accuracy, 0..1, if the test images were drawn one by one.
        this_split: Accuracy, 0..1, with the split that was made.
        images: Labelled images that were looked at, whole groups.
        of: Labelled images there are.
    """

    random_split: float
    this_split: float
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
    """Return the accuracy of the nearest thumbnail with a random split and with this one.

    A random split that is much better than the split by group shows what it would have leaked.
    None: without a test image, or without any other, there is nothing to measure.

    Args:
        thumbnails: Gray pictures of the labelled images, shape (N, pixels), in memory or a
            memory map.
        labels: Class of each image, shape (N,), as numbers or names.
        is_test: Whether an image is in the test split, shape (N,); all others may be known.
        groups: Number of each image's group, shape (N,).
        seed: Draws the random split and, of a larger set, the groups that are looked at.
        max_images: Of more images than that, whole groups are drawn up to about this number.
    """
    rng = np.random.default_rng(derived_seed("leak", seed))
    rows = _draw_groups(groups, is_test, max_images, rng)
    labels, is_test = labels[rows], is_test[rows]
    if not 0 < is_test.sum() < len(rows):
        return None
    pixels = np.asarray(thumbnails[rows])
    return Leak(
        random_split=_nearest_accuracy(pixels, labels, rng.permutation(is_test)),
        this_split=_nearest_accuracy(pixels, labels, is_test),
        images=len(rows),
        of=len(groups),
    )


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


def _nearest_accuracy(
    thumbnails: NDArray[np.uint8], labels: NDArray[Any], is_test: NDArray[np.bool_]
) -> float:
    known, asked = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    hits = 0
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        queries = unit_vectors(thumbnails[rows])
        best = np.full(len(rows), -np.inf, dtype=np.float32)
        nearest = np.zeros(len(rows), dtype=np.int64)
        for first in range(0, len(known), _BLOCK):
            block = known[first : first + _BLOCK]
            likeness = queries @ unit_vectors(thumbnails[block]).T
            place = likeness.argmax(axis=1)
            highest = np.take_along_axis(likeness, place[:, None], axis=1)[:, 0]
            better = highest > best
            best[better] = highest[better]
            nearest[better] = block[place[better]]
        hits += int((labels[nearest] == labels[rows]).sum())
    return hits / len(asked)
