"""Values of any range to gray or colour of 8 bits, without clipping anything in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.images.checked import ImageError
from sightline.telemetry import count

WINDOW_PERCENTILES = (0.5, 99.5)
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Levels:
    """The values that an image may have, and how often each counts.

    What is done to each value is then done once, not once a pixel: 16 bits have 65,536 of them, in
    a few hundred kilobytes, where the pixels as float64 would take 400 MB. An image of wider values
    has every pixel as a level of its own.

    `values` (n,) float64 and `counts` (n,) integers; `places` is each pixel's level, in the shape
    of the image.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.integer]
    places: NDArray[np.integer] | None
    shape: tuple[int, ...]

    def paint(self, shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image in which every level is what `shown` (n,) says."""
        return shown.reshape(self.shape) if self.places is None else shown[self.places]


def find_levels(stored: NDArray[np.generic], ignored: NDArray[np.bool_] | None = None) -> Levels:
    """Return the levels of an image.

    Args:
        stored: Values of any type, shape (height, width) or (height, width, 3).
        ignored: Pixels that do not count, shape (height, width).
    """
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        native = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
        places = native.view(f"u{native.itemsize}")
        number = 2 ** (8 * native.itemsize)
        values = np.arange(number).astype(places.dtype).view(native.dtype).astype(np.float64)
        counts = np.zeros(number, dtype=np.int64)
        for rows in strips(places):  # bincount widens to 64 bits
            counted = places[rows] if ignored is None else places[rows][~ignored[rows]]
            counts += np.bincount(counted.reshape(-1), minlength=number)
        return Levels(values, counts, places, stored.shape)
    counts = np.ones(stored.shape, dtype=np.uint8)
    if ignored is not None:
        counts[ignored] = 0
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        values = stored.astype(np.float64, copy=False).reshape(-1)
    return Levels(values, counts.reshape(-1), None, stored.shape)


def window_percentiles(
    levels: Levels, values: NDArray[np.float64], kind: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Spread values between their percentiles 0.5 and 99.5 over 0 to 255, all channels alike.

    Where both are one value, as in a picture that is black but for a few spots, the lowest and the
    highest value take their place.

    Args:
        levels: Those of the image.
        values: What each level means, shape (n,). What is not finite becomes the lowest value,
            +inf the highest.
        kind: What they are, for the note: "16-bit gray".

    Returns:
        What each level becomes, shape (n,), and notes on what was done.

    Raises:
        ImageError: If no value that counts is finite.
    """
    counted = np.isfinite(values) & (levels.counts > 0)
    if not counted.any():
        raise ImageError("holds no finite value")
    low, high = _percentiles(values[counted], levels.counts[counted])
    if low == high:
        low, high = values[counted].min(), values[counted].max()
    notes = [f"{kind}, values {low:g} to {high:g} spread over 0 to 255"]
    at_top = np.isposinf(values)
    for found, end in ((~np.isfinite(values) & ~at_top, "lowest"), (at_top, "highest")):
        if pixels := int(levels.counts[found].sum()):
            notes.append(f"{count(pixels, 'pixel')} not finite, set to the {end} value")
    # Two finite values may lie further apart than the largest float.
    span = np.clip(high - low, np.finfo(np.float64).tiny, np.finfo(np.float64).max)
    shown = np.empty(values.shape, dtype=np.uint8)
    with np.errstate(over="ignore"):  # of an image of one value, what does not occur is infinite
        for some in strips(values):
            shown[some] = share_to_8_bit((np.nan_to_num(values[some], nan=low) - low) / span)
    return shown, tuple(notes)


def strips(pixels: NDArray[Any]) -> Iterator[slice]:
    """Yield ranges of the first axis that hold about a million values each.

    What is computed of them in wider types then never takes the memory of a whole image: one of 50
    megapixels has 150 MB of 8 bits, and 1.2 GB as float64.
    """
    rows = max(1, _AT_ONCE * len(pixels) // max(1, pixels.size))
    for start in range(0, len(pixels), rows):
        yield slice(start, start + rows)


def share_to_8_bit(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 0 as 0 and 1 as 255, what lies beyond as the nearer of both."""
    shown = np.empty(share.shape, np.uint8)
    for some in strips(share):
        shown[some] = np.round(255 * np.clip(share[some], 0, 1))
    return shown


def _percentiles(
    values: NDArray[np.float64], counts: NDArray[np.integer]
) -> tuple[np.float64, np.float64]:
    """Return the two percentiles of values that occur so often, as np.percentile interpolates.

    The values may lie in another order afterwards.
    """
    if counts.max() == 1:
        low, high = np.percentile(values, WINDOW_PERCENTILES, overwrite_input=True)
        return low, high
    order = np.argsort(values)
    values, ends = values[order], np.cumsum(counts[order])
    ranks = np.asarray(WINDOW_PERCENTILES) / 100 * (ends[-1] - 1)
    below = values[np.searchsorted(ends, np.floor(ranks), side="right")]
    above = values[np.searchsorted(ends, np.ceil(ranks), side="right")]
    low, high = below + (above - below) * (ranks - np.floor(ranks))
    return low, high
