"""Pictures that look almost the same though their groups differ, found among any number.

Near means that the 32 x 32 gray thumbnails correlate above 0.99; perceptual hashes are of no use
on MRI, where different slices share one. The search misses none, yet does not compare each with
each. Let u and v be two thumbnails as unit vectors without their means, p and q their shadows in
a few orthonormal directions, and a and b the lengths that the shadows leave over. Then the
correlation u·v is at most p·q + ab (Cauchy-Schwarz), so the short vectors (p, a) and (q, b) rule
out nearly every pair; before that, sorting by the first number of p keeps most pairs apart. What
is left is compared in full and in whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.storage.scratch import ScratchFolder

NEAR_CORRELATION = 0.99
MAX_LOOKALIKES = 1000
SHOWN_PAIRS = 20
_DIRECTIONS = 32
_SAMPLE = 2048
_BLOCK = 2048
_QUERIES = 256
_PAIRS = 256
# Short vectors are float32: a bound on the correlation may come out too low by this much.
_ROUNDING = 1e-4


class NearCopy(NamedTuple):
    """Two rows of the thumbnails: one in an earlier split, and the one that is held out."""

    row: int
    held_out_row: int
    correlation: float


@dataclass(frozen=True)
class NearCopies:
    """What looks almost the same across splits.

    Attributes:
        count: Pairs of different groups and splits; where not complete, at least so many.
        images: Held-out images with such a copy in an earlier split.
        examples: The first 20 pairs, the most alike first.
        complete: Whether every pair was looked at. Not so if an image has more lookalikes than
            are compared with it.
    """

    count: int
    images: int
    examples: tuple[NearCopy, ...]
    complete: bool


def find_near_copies(
    thumbnails: NDArray[np.uint8],
    groups: NDArray[np.integer],
    ranks: NDArray[np.integer],
    hashes: NDArray[np.integer],
    max_lookalikes: int = MAX_LOOKALIKES,
) -> NearCopies:
    """Find the pairs of different groups, splits and pixels whose thumbnails nearly agree.

    Memory stays flat as N grows, but for some 30 bytes an image: thumbnails are read in blocks,
    and the short vectors lie in a scratch file.

    Args:
        thumbnails: Shape (N, pixels) with at most 1,024 pixels, in memory or a memory map. A
            blank one, all of one value, is near to nothing.
        groups: Number of each image's group, shape (N,).
        ranks: Number of each image's split, shape (N,); the larger is held out from the smaller.
        hashes: Number of each image's exact pixels, shape (N,): exact copies are not near copies.
        max_lookalikes: With how many lookalikes one held-out image is compared in full. Without
            a bound, a set of one picture over and over would take the square of its size.
    """
    if not len(thumbnails):
        return NearCopies(count=0, images=0, examples=(), complete=True)
    with ScratchFolder("near-copies") as scratch:
        looks = _sort_by_look(thumbnails, ranks, scratch)
        search = _Search(thumbnails, groups, hashes, looks, max_lookalikes)
        for rank in np.unique(looks.ranks)[1:]:
            start, stop = looks.range_of(rank)
            for first in range(start, stop, _QUERIES):
                search.compare(first, min(first + _QUERIES, stop))
    return search.result()


@dataclass(frozen=True)
class _Looks:
    """Every image that is not blank, ordered by split and then by the first number of its look.

    Attributes:
        rows: Its row in the thumbnails, shape (M,).
        ranks: Its split, shape (M,), ascending.
        vectors: Its short vector, shape (M, directions + 1), a memory map.
        keys: The first number of that, shape (M,), ascending inside a split.
    """

    rows: NDArray[np.int64]
    ranks: NDArray[np.integer]
    vectors: NDArray[np.float32]
    keys: NDArray[np.float32]

    def range_of(self, rank: int) -> tuple[int, int]:
        start, stop = np.searchsorted(self.ranks, [rank, rank + 1])
        return int(start), int(stop)


class _Search:
    """Compares blocks of held-out images with the earlier splits, and keeps what it finds."""

    def __init__(
        self,
        thumbnails: NDArray[np.uint8],
        groups: NDArray[np.integer],
        hashes: NDArray[np.integer],
        looks: _Looks,
        max_lookalikes: int,
    ) -> None:
        self.correlation = _Correlation(thumbnails)
        self.groups = groups
        self.hashes = hashes
        self.looks = looks
        self.max_lookalikes = max_lookalikes
        self.count = 0
        self.images = 0
        self.examples: list[NearCopy] = []
        self.complete = True

    def result(self) -> NearCopies:
        return NearCopies(self.count, self.images, tuple(self.examples), self.complete)

    def compare(self, start: int, stop: int) -> None:
        """Compare the held-out images of one split at start … stop with every earlier split."""
        looks = self.looks
        queries = np.arange(start, stop)
        left = np.full(len(queries), self.max_lookalikes)
        has_copy = np.zeros(len(queries), dtype=bool)
        reach = math.sqrt(2 * (1 - NEAR_CORRELATION + _ROUNDING))
        for rank in np.unique(looks.ranks[: looks.range_of(looks.ranks[start])[0]]):
            begin, end = looks.range_of(rank)
            window = looks.keys[start] - reach, looks.keys[stop - 1] + reach
            low, high = begin + np.searchsorted(looks.keys[begin:end], window)
            for first in range(low, high, _BLOCK):
                # Once pairs were left out, an image that had its share has nothing more to tell.
                asked = np.flatnonzero((left > 0) | self.complete)
                places, others = self._lookalikes(queries[asked], first, min(first + _BLOCK, high))
                places = asked[places]
                turn = np.arange(len(places)) - np.searchsorted(places, places)
                within = turn < left[places]
                self.complete &= bool(within.all())
                places, others = places[within], others[within]
                left -= np.bincount(places, minlength=len(left))
                has_copy[places[self._compare_in_full(queries[places], others)]] = True
        self.images += int(has_copy.sum())

    def _lookalikes(
        self, queries: NDArray[np.int64], first: int, last: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what may be near copies among looks first … last: places in queries, and looks."""
        vectors, rows = self.looks.vectors, self.looks.rows
        bounds = vectors[queries] @ vectors[first:last].T
        near = np.flatnonzero(bounds > NEAR_CORRELATION - _ROUNDING)
        places, others = np.divmod(near, last - first)
        others += first
        own, other = rows[queries[places]], rows[others]
        apart = self.groups[own] != self.groups[other]
        apart &= self.hashes[own] != self.hashes[other]
        return places[apart], others[apart]

    def _compare_in_full(
        self, queries: NDArray[np.int64], others: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Record the near copies among pairs of looks, and return which they are."""
        near = np.zeros(len(queries), dtype=bool)
        for start in range(0, len(queries), _PAIRS):
            pairs = slice(start, start + _PAIRS)
            held_out, rows = self.looks.rows[queries[pairs]], self.looks.rows[others[pairs]]
            correlations = self.correlation.between(rows, held_out)
            near[pairs] = correlations > NEAR_CORRELATION
            found = np.flatnonzero(near[pairs])
            self.count += len(found)
            best = found[np.lexsort((rows[found], held_out[found], -correlations[found]))]
            self.examples += [
                NearCopy(int(rows[i]), int(held_out[i]), float(correlations[i]))
                for i in best[:SHOWN_PAIRS]
            ]
            self.examples.sort(key=lambda pair: (-pair.correlation, pair.held_out_row, pair.row))
            del self.examples[SHOWN_PAIRS:]
        return near


def unit_vectors(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails without their means and of length 1, so that products are correlations.

    A blank one has no direction: it becomes 0, which is near to nothing.
    """
    vectors = thumbnails.astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # One gray step in one of 1,024 pixels has a length of 1; rounding of the mean, 1e-3.
    vectors *= np.where(lengths > 0.1, 1 / np.maximum(lengths, 0.1), 0)
    return vectors


def _sort_by_look(
    thumbnails: NDArray[np.uint8], ranks: NDArray[np.integer], scratch: Path
) -> _Looks:
    directions = _main_directions(thumbnails)
    shape = (len(thumbnails), directions.shape[1] + 1)
    found = np.memmap(scratch / "found", np.float32, "w+", shape=shape)
    blank = np.zeros(len(thumbnails), dtype=bool)
    for start in range(0, len(thumbnails), _BLOCK):
        vectors = unit_vectors(thumbnails[start : start + _BLOCK])
        shadows = vectors @ directions
        left_over = 1 - np.square(shadows).sum(axis=1)
        found[start : start + _BLOCK, :-1] = shadows
        found[start : start + _BLOCK, -1] = np.sqrt(np.maximum(left_over, 0))
        blank[start : start + _BLOCK] = ~vectors.any(axis=1)
    rows = np.lexsort((found[:, 0], ranks))
    rows = rows[~blank[rows]]
    sorted_ = np.memmap(scratch / "sorted", np.float32, "w+", shape=shape)
    for start in range(0, len(rows), _BLOCK):
        chosen = rows[start : start + _BLOCK]
        sorted_[start : start + len(chosen)] = found[chosen]
    vectors = np.asarray(sorted_)[: len(rows)]
    return _Looks(rows, ranks[rows], vectors, np.array(vectors[:, 0]))


def _main_directions(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the directions in which a sample of the thumbnails is largest, as columns.

    The first is the one along which they differ most. Any orthonormal columns give right bounds,
    good ones low bounds, so three rounds of subspace iteration are enough.
    """
    sample = np.unique(np.linspace(0, len(thumbnails) - 1, _SAMPLE).astype(np.int64))
    vectors = unit_vectors(thumbnails[sample])
    pixels = thumbnails.shape[1]
    basis = np.random.default_rng(0).standard_normal(
        (pixels, min(_DIRECTIONS, pixels)), dtype=np.float32
    )
    for _ in range(3):
        basis, _ = np.linalg.qr(vectors.T @ (vectors @ basis))
    shadows = vectors @ basis
    shadows -= shadows.mean(axis=0)
    _, axes = np.linalg.eigh(shadows.T @ shadows)
    directions: NDArray[np.float32] = (basis @ axes[:, ::-1]).astype(np.float32)
    return directions


class _Correlation:
    """Correlates pairs of thumbnails exactly, so that no order of adding can change a result.

    Values from -128 to 127 give products of at most 2**14, and 2**10 of them sum to at most
    2**24: float32 holds every sum as it is.
    """

    def __init__(self, thumbnails: NDArray[np.uint8]) -> None:
        self._thumbnails = thumbnails
        # Kept from call to call: fresh memory of this size costs several times the arithmetic.
        self._pixels = np.empty((2, _PAIRS, thumbnails.shape[1]), dtype=np.float32)
        self._ones = np.ones(thumbnails.shape[1], dtype=np.float32)

    def between(
        self, rows: NDArray[np.int64], other_rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the correlation of each pair, shape (P,); at most 256 pairs, and none blank."""
        x, y = self._pixels[:, : len(rows)]
        np.subtract(self._thumbnails[rows], np.float32(128), out=x)
        np.subtract(self._thumbnails[other_rows], np.float32(128), out=y)
        x_sums, y_sums = (x @ self._ones).astype(np.float64), (y @ self._ones).astype(np.float64)
        pixels = np.float64(x.shape[1])  # what it multiplies becomes float64, too
        x_squares = pixels * np.vecdot(x, x) - x_sums**2
        y_squares = pixels * np.vecdot(y, y) - y_sums**2
        correlations: NDArray[np.float64] = pixels * np.vecdot(x, y) - x_sums * y_sums
        correlations /= np.sqrt(x_squares * y_squares)
        return correlations
