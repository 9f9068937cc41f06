"""Numbers as people read them: percent, points, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "–"
MINUS = "\N{MINUS SIGN}"


def percent(share: float | None) -> str:
    """Return a share as `81.2 %`."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def percent_interval(number: Mapping[str, Any] | None) -> str:
    """Return an interval of shares as `77.1 to 85.0 %`; empty where there is none."""
    if not number or number.get("low") is None or number.get("high") is None:
        return ""
    return f"{100 * number['low']:.1f} to {100 * number['high']:.1f} %"


def percent_with_interval(number: Mapping[str, Any]) -> str:
    """Return `81.2 % (95 % interval 77.1 to 85.0 %)`."""
    bounds = percent_interval(number)
    value = percent(number.get("value"))
    return f"{value} (95 % interval {bounds})" if bounds else f"{value} (no interval)"


def points(difference: float | None) -> str:
    """Return a difference of shares in percentage points as `+3.4`."""
    if difference is None:
        return MISSING
    rounded = round(100 * difference, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f}"


def points_interval(number: Mapping[str, Any]) -> str:
    """Return the interval of a difference in points as `−0.5 to +4.1`; empty if there is none."""
    if number.get("low") is None or number.get("high") is None:
        return ""
    return f"{points(number['low'])} to {points(number['high'])}"


def decimal(value: float | None, places: int = 3) -> str:
    """Return a number with a fixed number of decimals, as mAP and AUC are usually given."""
    return MISSING if value is None else f"{value:.{places}f}"


def decimal_interval(number: Mapping[str, Any] | None) -> str:
    """Return an interval as `0.381 to 0.442`; empty where there is none."""
    if not number or number.get("low") is None or number.get("high") is None:
        return ""
    return f"{decimal(number['low'])} to {decimal(number['high'])}"


def count(number: int, singular: str, plural: str = "") -> str:
    """Return `1 image`, `2,400 images`."""
    word = singular if number == 1 else plural or singular + "s"
    return f"{number:,} {word}"


def listing(words: list[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def markdown_cell(value: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return markdown_line(value).replace("|", "\\|")


def markdown_line(value: object) -> str:
    """Return a text on one line that Markdown shows as it is: no tag, no code, no heading."""
    text = " ".join(str(value).split())
    return text.replace("<", "&lt;").replace("`", "'")
