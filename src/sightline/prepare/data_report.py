"""The data report: one page that shows what was found and what was made of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from sightline.data import SPLITS
from sightline.data.samples import Box
from sightline.prepare.config import PrepareConfig
from sightline.prepare.near_copies import MAX_LOOKALIKES, NEAR_CORRELATION
from sightline.telemetry import count

_PICTURE_SIDE_PX = 168
_SHOWN_REJECTED = 200
_TITLES = {
    "images": "Unlabelled images, for pretraining",
    "labels": "Labelled images, for classification",
    "boxes": "Images with boxes, for detection",
}
# Paul Tol's bright palette: told apart by colour-blind readers, and visible on dark pictures.
_COLOURS = ("#66ccee", "#ee6677", "#ccbb44", "#4477aa", "#228833", "#aa3377", "#ee8866", "#bbbbbb")
# A share's number fits into its part of a bar from about here on.
_NUMBERED_SHARE = 0.08


@dataclass(frozen=True)
class ShownPicture:
    """A picture for the page: `content` is the file as it is stored."""

    name: str
    group: str
    split: str
    content: bytes
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class ShownSet:
    """What the page shows of one set, beside its counts.

    Attributes:
        kind: `images`, `labels` or `boxes`.
        background: Images of a boxes set without any box.
        samples: Pictures by class, in the order they are shown; the class is "" where there are
            none, and `background` for images without a box.
    """

    kind: str
    background: int
    samples: Sequence[tuple[str, Sequence[ShownPicture]]]


@dataclass(frozen=True)
class ShownPair:
    """Two near copies, the second held out from the first, and their correlation."""

    first: ShownPicture
    held_out: ShownPicture
    correlation: float


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    sets: Sequence[ShownSet],
    pairs: Sequence[ShownPair],
    config: PrepareConfig,
) -> None:
    """Write the page; everything it needs is in the one file.

    Args:
        path: The page.
        metrics: What the step returns.
        sets: The sets that were written, with sample pictures.
        pairs: The first near copies across splits.
        config: The step's settings.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["number_of"] = count
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    text = environment.get_template("data_report.html").render(
        metrics=metrics,
        sections=[describe_set(shown, metrics) for shown in sets],
        pairs=[
            {
                "pictures": [draw_picture(pair.first, {}), draw_picture(pair.held_out, {})],
                "correlation": f"{pair.correlation:.4f}",
            }
            for pair in pairs
        ],
        splits=SPLITS,
        rejected=metrics["rejected"][:_SHOWN_REJECTED],
        rejected_count=metrics.get("rejected_count", len(metrics["rejected"])),
        seed=config.split_seed,
        near_correlation=NEAR_CORRELATION,
        max_lookalikes=MAX_LOOKALIKES,
    )
    path.write_text(text, encoding="utf-8")


def describe_set(shown: ShownSet, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of one set: its table, its class balance and sample pictures."""
    counts = metrics["counts"][shown.kind]
    classes = metrics["classes"].get(shown.kind, [])
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(classes)}
    rows = [
        {
            "name": name,
            "colour": colours[name],
            "counts": [counts[split]["classes"].get(name, 0) for split in SPLITS],
        }
        for name in classes
    ]
    return {
        "kind": shown.kind,
        "title": _TITLES[shown.kind],
        "uri": metrics["datasets"][shown.kind],
        "counts": counts,
        "unit": "boxes" if shown.kind == "boxes" else "images",
        "rows": rows,
        "balance": [balance_classes(split, counts[split]["classes"], colours) for split in SPLITS],
        "background": shown.background,
        "samples": [
            {"name": name, "pictures": [draw_picture(picture, colours) for picture in pictures]}
            for name, pictures in shown.samples
        ],
    }


def balance_classes(
    split: str, counts: Mapping[str, int], colours: Mapping[str, str]
) -> dict[str, Any]:
    """Return the classes' shares of one split, as parts of a bar."""
    total = sum(counts.values())
    return {
        "split": split,
        "total": total,
        "parts": [
            {
                "name": name,
                "colour": colour,
                "share": counts[name] / total,
                "numbered": counts[name] / total >= _NUMBERED_SHARE,
            }
            for name, colour in colours.items()
            if counts.get(name)
        ],
    }


def draw_picture(picture: ShownPicture, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return a small picture as a data address, with its boxes in percent of its sides."""
    with Image.open(io.BytesIO(picture.content)) as stored:
        small = stored.convert("RGB")
    small.thumbnail((_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return {
        "source": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "name": picture.name,
        "group": picture.group,
        "split": picture.split,
        "width": small.width,
        "height": small.height,
        "boxes": [
            {
                "colour": colours[box.class_name],
                "left": 100 * (box.x_center - box.width / 2),
                "top": 100 * (box.y_center - box.height / 2),
                "width": 100 * box.width,
                "height": 100 * box.height,
            }
            for box in picture.boxes
        ],
    }
