"""Values of any range to gray or colour of 8 bits, without clipping anything in silence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sightline.data.checked import ImageError
from sightline.telemetry import count

WINDOW_PERCENTILES = (0.5, 99.5)


def window_percentiles(
    values: NDArray[np.generic], kind: str, ignored: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Spread values between their percentiles 0.5 and 99.5 over 0 to 255, all channels alike.

    Args:
        values: Of any shape and type. What is not finite becomes the lowest value, +inf the
            highest.
        kind: What they are, for the note: "16-bit gray".
        ignored: Places that do not count for the percentiles, shape of `values` or of its first
            axes.

    Returns:
        The 8-bit values, shape of `values`, and notes on what was done.

    Raises:
        ImageError: If no value that counts is finite.
    """
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    if ignored is not None:
        finite &= ~ignored.reshape(ignored.shape + (1,) * (values.ndim - ignored.ndim))
    counted = exact[finite]
    if not counted.size:
        raise ImageError("holds no finite value")
    low, high = np.percentile(counted, WINDOW_PERCENTILES)
    notes = [f"{kind}, values {low:g} to {high:g} spread over 0 to 255"]
    at_top = int(np.isposinf(exact).sum())
    at_bottom = int((~np.isfinite(exact)).sum()) - at_top
    for pixels, end in ((at_bottom, "lowest"), (at_top, "highest")):
        if pixels:
            notes.append(f"{count(pixels, 'pixel')} not finite, set to the {end} value")
    return spread(exact, low, high), tuple(notes)


def spread(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Return `low` as 0, `high` as 255, what lies beyond as the nearer of both."""
    # Two finite values may lie further apart than the largest float.
    span = np.clip(high - low, np.finfo(np.float64).tiny, np.finfo(np.float64).max)
    return share_to_8_bit((np.nan_to_num(values, nan=low) - low) / span)


def share_to_8_bit(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 0 as 0 and 1 as 255."""
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
