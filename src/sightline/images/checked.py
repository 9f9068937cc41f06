"""What reading a file from outside gives: a checked image, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import UserError

MAX_MEGAPIXELS = 50
MAX_SIDE_PX = 10_000
_MOST_CHARACTERS, _LAST_CHARACTERS = 300, 100  # of a reason, which ends with what to do
SEVERAL_FRAMES = "several frames (animated, or several pages): save each as one file"


class ImageError(UserError):
    """Bytes that are no image we can read right; the message is the reason alone.

    It goes into reports and logs, so it is one line of at most 300 printable characters, whatever
    it quotes.
    """

    def __init__(self, reason: str) -> None:
        line = "".join(char if char.isprintable() else "?" for char in " ".join(reason.split()))
        if len(line) > _MOST_CHARACTERS:
            first = _MOST_CHARACTERS - _LAST_CHARACTERS - 1
            line = f"{line[:first]}…{line[-_LAST_CHARACTERS:]}"
        super().__init__(line)


@dataclass(frozen=True)
class CheckedImage:
    """An image from outside, read right.

    `pixels` is upright, shape (height, width, 3), RGB, 0..255. `is_plain` says that the file itself
    is an 8-bit upright gray or RGB JPEG or PNG, which can be stored as it is. `notes` tell what
    was done to it. `frame` counts from 1 where a file was split, and is 0 otherwise. `patient` is
    a hash of the patient's number where the file tells one, never the number itself.
    """

    pixels: NDArray[np.uint8]
    suffix: str
    is_plain: bool
    notes: tuple[str, ...] = ()
    frame: int = 0
    patient: str = ""


def refuse_size(width: int, height: int) -> None:
    """Check a size that a header claims, before anything of that size is allocated.

    Raises:
        ImageError: If it is above 50 megapixels or 10,000 pixels a side, or has no pixels.
    """
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_MEGAPIXELS * 1_000_000:
        raise ImageError(
            f"{width} x {height} pixels, more than {MAX_MEGAPIXELS} megapixels or "
            f"{MAX_SIDE_PX:,} a side"
        )
    if width < 1 or height < 1:
        raise ImageError(f"{width} x {height} pixels")


def name_damage(error: Exception) -> ImageError:
    """Turn whatever a decoder raised on damaged bytes into a reason."""
    said = without_quotes(str(error)).split("\n")[0] or type(error).__name__
    if said.startswith("Unsupported"):
        return ImageError(f"of a kind that is not read ({said}): save it in another way")
    return ImageError(f"damaged or cut short: {said}")


def without_quotes(said: str) -> str:
    """Return a library's words without what they quote: that may be a patient's name.

    Where damage makes one value of a file swallow the next, Python and the libraries quote both.
    From the first quotation mark to the last, for what is quoted may hold some.
    """
    return re.sub(r"""(?<![a-z])b?['"](.*['"]|.*)""", "…", said.strip(), flags=re.DOTALL)
