"""Images with boxes in YOLO's folder layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from sightline.config import UserError
from sightline.data import Box
from sightline.prepare.folders import SPLIT_NAMES, Findings, FoundImage, list_image_keys
from sightline.storage import Storage, join_uri, open_storage
from sightline.telemetry import count


class LabelError(UserError):
    """A label file that would spoil a number; the message is the reason alone."""


@dataclass
class Mended:
    """Lines of label files that were read with a change."""

    clipped: list[str] = field(default_factory=list)
    polygons: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def tell(self) -> list[str]:
        """Return one sentence for each kind of change."""
        kinds = (
            ("box", "boxes", "clipped, for reaching outside the image", self.clipped),
            ("polygon", "polygons", "read as bounding box", self.polygons),
            ("box", "boxes", "given twice and counted once", self.repeated),
        )
        return [
            f"{len(places)} {one if len(places) == 1 else many} {change}: {', '.join(places[:5])}"
            for one, many, change, places in kinds
            if places
        ]


def find_boxes(uri: str, max_box_overhang: float) -> Findings:
    """Return the images of a YOLO data set with their boxes, as shares of the upright image.

    Both layouts are read: `images/[split/]x.png` with `labels/[split/]x.txt`, and
    `[split/]images/x.png` with `[split/]labels/x.txt`. An image without a label file, or with an
    empty one, is background. An image whose label file is wrong is rejected.

    Args:
        uri: The folder that holds `data.yaml`.
        max_box_overhang: How far a box may reach outside before it is refused instead of clipped.

    Raises:
        UserError: If there are no images, no label files, or no class names.
    """
    storage = open_storage(uri)
    findings = Findings("boxes", uri)
    keys = list_image_keys(findings)
    findings.classes = _read_class_names(storage, uri)
    label_keys = {
        entry.key
        for entry in storage.list()
        if entry.key.endswith(".txt") and "labels" in entry.key.split("/")[:-1]
    }
    used = set()
    without = []
    mended = Mended()
    for key in keys:
        parts = key.split("/")
        if "images" not in parts[:-1]:
            findings.rejected[key] = "lies in no images folder"
            continue
        label_key = _label_key(parts)
        boxes: tuple[Box, ...] = ()
        if label_key in label_keys:
            used.add(label_key)
            try:
                boxes = _read_boxes(storage, label_key, findings.classes, max_box_overhang, mended)
            except LabelError as error:
                findings.rejected[key] = str(error)
                continue
        else:
            without.append(key)
        splits = [SPLIT_NAMES[part.lower()] for part in parts[:-1] if part.lower() in SPLIT_NAMES]
        sorting = {"images", *SPLIT_NAMES}
        own = [part for part in parts[:-1] if part.lower() not in sorting]
        split = splits[0] if splits else None
        own_name = "/".join([*own, parts[-1]])
        findings.images.append(FoundImage("boxes", key, own_name, split, boxes=boxes))
    findings.warnings += mended.tell()
    _tell_unmatched(findings, label_keys - used, without)
    return findings


def _read_class_names(storage: Storage, uri: str) -> tuple[str, ...]:
    found = sorted(
        entry.key
        for entry in storage.list()
        if "/" not in entry.key and entry.key.endswith((".yaml", ".yml"))
    )
    if not found:
        raise UserError(
            f"boxes_uri {uri} needs a data.yaml with the class names, got none: write "
            f"{join_uri(uri, 'data.yaml')} with a line such as `names: [glioma, pituitary]`"
        )
    key = "data.yaml" if "data.yaml" in found else found[0]
    try:
        content: Any = yaml.safe_load(storage.read_bytes(key))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{join_uri(uri, key)} is no YAML: {error}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        places = list(range(len(names)))
        if sorted(names, key=str) != sorted(places, key=str):
            raise UserError(
                f"{join_uri(uri, key)} needs names numbered 0 to {len(names) - 1}, got {names}"
            )
        names = [names[place] for place in places]
    if not isinstance(names, list) or not names:
        raise UserError(f"{join_uri(uri, key)} needs `names`, a list of class names, got {names!r}")
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        raise UserError(f"{join_uri(uri, key)} names a class twice: {', '.join(texts)}")
    if content.get("nc", len(texts)) != len(texts):
        raise UserError(
            f"{join_uri(uri, key)} says nc: {content['nc']} and names {len(texts)} classes: "
            "correct one of them"
        )
    return texts


def _label_key(parts: list[str]) -> str:
    # The last `images` counts, as in Ultralytics.
    place = len(parts) - 2 - parts[-2::-1].index("images")
    path = PurePosixPath(*parts[:place], "labels", *parts[place + 1 :])
    return path.with_suffix(".txt").as_posix()


def _read_boxes(
    storage: Storage,
    key: str,
    classes: tuple[str, ...],
    max_box_overhang: float,
    mended: Mended,
) -> tuple[Box, ...]:
    try:
        lines = storage.read_bytes(key).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LabelError(f"{key} is no text") from None
    boxes: list[Box] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{key} line {number}"
        class_name, corners, is_polygon = _parse_line(line, place, classes)
        box, is_clipped = _clip(class_name, corners, place, max_box_overhang)
        if is_polygon:
            mended.polygons.append(place)
        if is_clipped:
            mended.clipped.append(place)
        if box in boxes:
            mended.repeated.append(place)
        else:
            boxes.append(box)
    return tuple(boxes)


def _parse_line(
    line: str, place: str, classes: tuple[str, ...]
) -> tuple[str, tuple[float, float, float, float], bool]:
    fields = line.split()
    try:
        index, numbers = float(fields[0]), [float(text) for text in fields[1:]]
    except ValueError:
        raise LabelError(f"{place}: needs numbers, got {line.strip()[:60]!r}") from None
    is_polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not is_polygon:
        raise LabelError(
            f"{place}: needs 5 numbers (class, centre x, y, width, height), got {len(fields)}"
        )
    if not all(map(math.isfinite, [index, *numbers])):
        raise LabelError(f"{place}: needs finite numbers, got {line.strip()[:60]!r}")
    if index != int(index) or not 0 <= index < len(classes):
        raise LabelError(
            f"{place}: class {fields[0]} is unknown, data.yaml names 0 to {len(classes) - 1}"
        )
    if is_polygon:
        xs, ys = numbers[0::2], numbers[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    else:
        x, y, width, height = numbers
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return classes[int(index)], corners, is_polygon


def _clip(
    class_name: str,
    corners: tuple[float, float, float, float],
    place: str,
    max_box_overhang: float,
) -> tuple[Box, bool]:
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        raise LabelError(f"{place}: a box of no size, {right - left:g} x {bottom - top:g}")
    # Labels are rounded to a few digits: less than a thousandth is not outside.
    overhang = max(-left, -top, right - 1, bottom - 1)
    if overhang > max(max_box_overhang, 1e-3):
        raise LabelError(
            f"{place}: reaches {overhang:.3g} of the image's side outside it; coordinates are "
            "shares of width and height, 0 to 1"
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    if right <= left or bottom <= top:
        raise LabelError(f"{place}: lies outside its image")
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    # From corners back to what the file says, without the noise of the way there and back.
    return Box(class_name, *(round(number, 9) for number in numbers)), overhang > 1e-3


def _tell_unmatched(findings: Findings, unused: set[str], without: list[str]) -> None:
    unused = {key for key in unused if PurePosixPath(key).name not in ("classes.txt", "notes.txt")}
    if unused:
        shown = ", ".join(sorted(unused)[:5])
        have = "has" if len(unused) == 1 else "have"
        findings.warnings.append(f"{count(len(unused), 'label file')} {have} no image: {shown}")
    if without and len(without) == len(findings.images):
        raise UserError(
            f"boxes_uri {findings.uri} needs label files, got none: the boxes of "
            f"{without[0]} belong in {_label_key(without[0].split('/'))}"
        )
    if without:
        have = (
            "has no label file and counts" if len(without) == 1 else "have no label file and count"
        )
        findings.warnings.append(
            f"{count(len(without), 'image')} {have} as background: {', '.join(without[:5])}"
        )
