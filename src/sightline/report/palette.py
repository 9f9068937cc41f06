"""Colours that keep their meaning across the page and for colour-blind readers.

Protocols use the palette of Okabe and Ito (2008), classes the muted one of Paul Tol (2021), so
that a class is never taken for a protocol. Classes beyond nine repeat colours with other markers.
"""

from __future__ import annotations

PROTOCOL_COLOURS = {
    "majority": "#9a9a9a",
    "pixel_nearest_neighbour": "#6b6b6b",
    "linear_random": "#cc79a7",
    "knn": "#56b4e9",
    "linear": "#0072b2",
    "scratch": "#009e73",
    "finetuned": "#d55e00",
    "pretrained": "#d55e00",
}
_CLASS_COLOURS = (
    "#332288",
    "#cc6677",
    "#117733",
    "#ddaa33",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#aa4499",
)
_CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")


def class_colour(index: int) -> str:
    """Return the colour of the class with this index."""
    return _CLASS_COLOURS[index % len(_CLASS_COLOURS)]


def class_marker(index: int) -> str:
    """Return the marker of a class; shape tells classes apart in print and without colour."""
    place = index + index // len(_CLASS_COLOURS)
    return _CLASS_MARKERS[place % len(_CLASS_MARKERS)]
