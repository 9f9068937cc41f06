"""What the detectors reached: rows, curves and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.report.results import StepResult
from sightline.report.wording import MINUS

_WORDS = {"pretrained": "pretrained encoder", "scratch": "from scratch"}
TITLES = {"pretrained": "YOLOv12, pretrained encoder", "scratch": "YOLOv12, from scratch"}
_MOST_PICTURES = 8
_LONGEST_SIDE_PX = 512

Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Picture:
    """A test image with its boxes, as an address that holds the picture itself."""

    title: str
    data_uri: str
    width: int
    height: int


def detection_gap_sentence(detect: StepResult) -> str:
    """Return what pretraining changes for the detector, in words; empty if it was not measured."""
    difference = (detect.metrics.get("difference") or {}).get("map50_95")
    if not difference or difference["value"] is None:
        return ""
    value = _signed(difference["value"])
    measured = f"Detector on the pretrained encoder minus from scratch: {value} mAP50-95"
    if difference["low"] is None:
        return f"{measured}. One test group alone gives no interval, so nothing follows from it."
    low, high = difference["low"], difference["high"]
    measured += f" (95 % interval {_signed(low)} to {_signed(high)}, paired over groups)."
    if low > 0:
        return f"{measured} Pretraining helps the detector."
    if high < 0:
        return f"{measured} Pretraining hurts the detector here."
    return (
        f"{measured} Not distinguishable: the interval contains 0, so this run does not show that "
        "pretraining helps or hurts the detector."
    )


def _signed(value: float) -> str:
    rounded = round(value, 3)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.3f}"


def detector_class_rows(detect: StepResult) -> list[dict[str, Any]]:
    """Return for each class the mAP50-95 and mAP50 of every detector, in the detectors' order."""
    entries = list(detect.protocols.values())
    if not entries:
        return []
    return [
        {
            "name": name,
            "values": [
                entry["per_class"].get(name, {}).get(metric)
                for entry in entries
                for metric in ("map50_95", "map50")
            ],
        }
        for name in entries[0].get("per_class", {})
    ]


def read_curves(detect: StepResult) -> dict[str, dict[str, Curve]]:
    """Return for each class, for each detector, its recalls and precisions at IoU 0.5."""
    content: dict[str, Any] = detect.read_json("pr_curves.json") or {"protocols": {}}
    by_class: dict[str, dict[str, Curve]] = {}
    for detector, classes in content["protocols"].items():
        for name, precisions in classes.items():
            if precisions is not None:
                by_class.setdefault(name, {})[detector] = (content["recall"], precisions)
    return by_class


def read_pictures(detect: StepResult) -> list[Picture]:
    """Return the pictures with boxes, at most eight, shrunk to what a page needs."""
    folder = detect.folder / "pictures"
    paths = sorted(folder.glob("*.jpg"))[:_MOST_PICTURES] if folder.is_dir() else []
    return [_embed(path) for path in paths]


def _embed(path: Path) -> Picture:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_LONGEST_SIDE_PX, _LONGEST_SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(
        _title(path.stem), f"data:image/jpeg;base64,{encoded}", picture.width, picture.height
    )


def _title(stem: str) -> str:
    # `01-pretrained` is the first image as the detector on the pretrained encoder sees it.
    number, _, detector = stem.partition("-")
    return f"Image {number.lstrip('0')}, {_WORDS.get(detector, detector)}"
