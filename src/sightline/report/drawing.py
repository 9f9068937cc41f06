"""Charts as inline SVG: the same bytes each time, text as text, no address of any network."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1d2733"
MUTED = "#5c6875"
GRID = "#e3e7ec"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sightline",
    # Class names are the user's: a dollar sign in one is no formula.
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#b9c1ca",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.8,
    # A curve that runs below a legend must not cross its words.
    "legend.frameon": True,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "savefig.dpi": 150,
}
_CSS_PIXELS_PER_INCH = 96


def draw(width: int, height: int, label: str, paint: Callable[[Axes], None]) -> Markup:
    """Draw one chart.

    Args:
        width: Natural width in CSS pixels; a narrower screen scales the chart down.
        height: Natural height in CSS pixels.
        label: What a person who cannot see the chart is told.
        paint: Fills the axes.

    Returns:
        An `<svg>` element, safe to place in a page.
    """
    with matplotlib.rc_context(_STYLE):
        size = (width / _CSS_PIXELS_PER_INCH, height / _CSS_PIXELS_PER_INCH)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return Markup(_inline(buffer.getvalue(), width, label))  # noqa: S704 (matplotlib escapes text)


def _inline(svg: str, width: int, label: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', body)
    opening = (
        f'<svg class="chart" style="max-width:{width}px" {view_box[0] if view_box else ""} '
        f'role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    body = opening + body[body.index(">") + 1 :]
    # Two charts on one page must not share an id, and most ids nobody refers to.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    return body.strip()
