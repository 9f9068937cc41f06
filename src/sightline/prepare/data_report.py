"""The data report: one page that shows what was found and what was made of it."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from sightline.data import SPLITS, derived_seed
from sightline.prepare.config import PrepareConfig
from sightline.prepare.duplicates import PlacedImage
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


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    sets: Mapping[str, Sequence[PlacedImage]],
    config: PrepareConfig,
) -> None:
    """Write the page; everything it needs is in the one file.

    Args:
        path: The page.
        metrics: What the step returns.
        sets: The packed images by kind, for the sample pictures.
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
    text = environment.get_template("data_report.html").render(
        metrics=metrics,
        sections=[
            describe_set(kind, metrics, images, config) for kind, images in sets.items() if images
        ],
        splits=SPLITS,
        rejected=metrics["rejected"][:_SHOWN_REJECTED],
        seed=config.split_seed,
    )
    path.write_text(text, encoding="utf-8")


def describe_set(
    kind: str, metrics: Mapping[str, Any], images: Sequence[PlacedImage], config: PrepareConfig
) -> dict[str, Any]:
    """Return what the page says of one set: its table, bars and sample pictures."""
    counts = metrics["counts"][kind]
    classes = metrics["classes"].get(kind, [])
    rows = [
        {
            "name": name,
            "colour": _COLOURS[place % len(_COLOURS)],
            "counts": [counts[split]["classes"].get(name, 0) for split in SPLITS],
        }
        for place, name in enumerate(classes)
    ]
    return {
        "kind": kind,
        "title": _TITLES[kind],
        "uri": metrics["datasets"][kind],
        "counts": counts,
        "unit": "boxes" if kind == "boxes" else "images",
        "rows": rows,
        "largest": max((sum(row["counts"]) for row in rows), default=1) or 1,
        "background": sum(image.read.found.boxes == () for image in images),
        "samples": choose_samples(kind, classes, images, config),
    }


def choose_samples(
    kind: str, classes: Sequence[str], images: Sequence[PlacedImage], config: PrepareConfig
) -> list[dict[str, Any]]:
    """Return sample pictures by class, one a group first, the same for the same seed."""
    by_class: dict[str, list[PlacedImage]] = defaultdict(list)
    order = sorted(images, key=lambda image: derived_seed("sample", config.split_seed, image.key))
    order.sort(key=lambda image: image.split != "train")
    for image in order:
        for name in _class_names(image, kind):
            by_class[name].append(image)
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(classes)}
    samples = []
    for name in [*classes, "background"] if classes else [""]:
        seen: set[str] = set()
        first: list[PlacedImage] = []
        repeated: list[PlacedImage] = []
        for image in by_class[name]:
            (repeated if image.group in seen else first).append(image)
            seen.add(image.group)
        chosen = (first + repeated)[: config.report_pictures]
        if chosen:
            pictures = [draw_picture(image, kind, colours) for image in chosen]
            samples.append({"name": name, "pictures": pictures})
    return samples


def draw_picture(image: PlacedImage, kind: str, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return a small picture as a data address, with its boxes in percent of its sides."""
    with Image.open(io.BytesIO(image.read.content)) as stored:
        small = stored.convert("RGB")
    small.thumbnail((_PICTURE_SIDE_PX, _PICTURE_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    boxes = image.read.found.boxes or () if kind == "boxes" else ()
    return {
        "source": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "name": image.key,
        "group": image.group,
        "split": image.split,
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
            for box in boxes
        ],
    }


def _class_names(image: PlacedImage, kind: str) -> set[str]:
    if kind == "labels":
        return {str(image.read.found.label)}
    if kind == "boxes":
        return {box.class_name for box in image.read.found.boxes or ()} or {"background"}
    return {""}
