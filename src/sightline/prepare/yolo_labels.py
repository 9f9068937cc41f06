"""Images with boxes in YOLO's folder layout."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import astuple, dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from sightline.data import Box
from sightline.errors import UserError
from sightline.images import ImageError
from sightline.prepare.catalogue import Catalogue, ListedFile, Stage
from sightline.prepare.folders import SPLIT_NAMES, Findings, list_image_files, reject
from sightline.prepare.nameless import without_suffix
from sightline.prepare.window import map_in_window
from sightline.storage import Entry, Storage, join_uri, open_storage
from sightline.telemetry import count

_SHOWN = 5


class LabelError(ImageError):
    """A label file that would spoil a number, so that its image is refused."""


@dataclass(frozen=True)
class ReadLabels:
    """The boxes of one label file, and the lines that were read with a change."""

    boxes: tuple[Box, ...]
    clipped: tuple[str, ...] = ()
    polygons: tuple[str, ...] = ()
    key_points: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


class Mended:
    """How many lines of label files were read with a change, and the first of them."""

    def __init__(self) -> None:
        self._lines = Counter[str]()
        self._first: dict[str, list[str]] = defaultdict(list)

    def add(self, read: ReadLabels) -> None:
        """Count what was mended in one file."""
        for change in ("clipped", "polygons", "key_points", "repeated"):
            places: tuple[str, ...] = getattr(read, change)
            self._lines[change] += len(places)
            self._first[change] += places[: _SHOWN - len(self._first[change])]

    def tell(self) -> list[str]:
        """Return one sentence for each kind of change."""
        kinds = (
            ("box", "boxes", "clipped, for reaching outside the image", "clipped"),
            ("polygon", "polygons", "read as bounding box", "polygons"),
            ("box", "boxes", "read without the key points behind it", "key_points"),
            ("box", "boxes", "given twice and counted once", "repeated"),
        )
        return [
            f"{number} {one if number == 1 else many} {told}: {', '.join(self._first[change])}"
            for one, many, told, change in kinds
            if (number := self._lines[change])
        ]


def find_boxes(uri: str, catalogue: Catalogue) -> Findings:
    """Add the images of a YOLO data set, and list its label files.

    Both layouts are read: `images/[split/]x.png` with `labels/[split/]x.txt`, and
    `[split/]images/x.png` with `[split/]labels/x.txt`. An image without a label file is
    background.

    Args:
        uri: The folder that holds `data.yaml`.
        catalogue: Where the files go.

    Raises:
        UserError: If there are no images, no label files, or no class names.
    """
    findings = Findings("boxes", uri)
    yaml_keys: list[str] = []

    def describe(entry: Entry) -> ListedFile:
        parts = entry.key.split("/")
        if "images" not in parts[:-1]:
            return reject(findings, entry.key, Stage.LAYOUT, "lies in no images folder")
        splits = [SPLIT_NAMES[part.lower()] for part in parts[:-1] if part.lower() in SPLIT_NAMES]
        sorting = {"images", *SPLIT_NAMES}
        own = [part for part in parts[:-1] if part.lower() not in sorting]
        return ListedFile(
            "boxes",
            entry.key,
            entry.size_bytes,
            own_name="/".join([*own, parts[-1]]),
            folder_split=splits[0] if splits else None,
            label_key=_label_key(parts),
        )

    def see_other(entry: Entry) -> None:
        if entry.key.endswith(".txt") and "labels" in entry.key.split("/")[:-1]:
            catalogue.execute("INSERT INTO label_files VALUES (?)", (entry.key,))
        elif "/" not in entry.key and entry.key.endswith((".yaml", ".yml")):
            yaml_keys.append(entry.key)

    list_image_files(findings, catalogue, describe, see_other)
    _read_yaml(open_storage(uri), findings, sorted(yaml_keys))
    _tell_unmatched(findings, catalogue)
    return findings


def read_boxes(findings: Findings, catalogue: Catalogue, max_box_overhang: float) -> None:
    """Read every label file; boxes are shares of the upright image.

    An image whose label file is wrong is rejected.

    Args:
        findings: The folder; what was mended is added to its warnings.
        catalogue: Where the boxes go.
        max_box_overhang: How far a box may reach outside before it is refused instead of clipped.
    """
    storage = open_storage(findings.uri)
    mended = Mended()

    def read(item: tuple[int, str]) -> tuple[int, ReadLabels | LabelError]:
        file, key = item
        try:
            return file, _read_boxes(storage, key, findings, max_box_overhang)
        except LabelError as error:
            return file, error

    catalogue.execute("UPDATE files SET boxes = '[]' WHERE kind = 'boxes'")
    labelled = catalogue.files_by(
        "id", "files.id, label_key", "label_key IN (SELECT key FROM label_files)"
    )
    for file, result in map_in_window(read, labelled, storage.parallel_requests):
        if isinstance(result, LabelError):
            catalogue.reject(file, Stage.LABELS, str(result))
            continue
        mended.add(result)
        boxes = json.dumps([astuple(box) for box in result.boxes])
        catalogue.execute("UPDATE files SET boxes = ? WHERE id = ?", (boxes, file))
    findings.warnings[:0] = mended.tell()


def _read_yaml(storage: Storage, findings: Findings, found: list[str]) -> None:
    uri = findings.uri
    if not found:
        raise UserError(
            f"boxes_uri {uri} needs a data.yaml with the class names, got none: write "
            f"{join_uri(uri, 'data.yaml')} with a line such as `names: [glioma, pituitary]`"
        )
    key = "data.yaml" if "data.yaml" in found else found[0]
    try:
        # BaseLoader makes texts, lists and dicts and nothing else, whatever tags say: as safe as
        # SafeLoader, for which the classes `no` and `yes` are False and True.
        content: Any = yaml.load(storage.read_bytes(key), Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{join_uri(uri, key)} is no YAML: {error}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        places = [str(place) for place in range(len(names))]
        if sorted(names) != sorted(places):
            raise UserError(
                f"{join_uri(uri, key)} needs names numbered 0 to {len(names) - 1}, got {names}"
            )
        names = [names[place] for place in places]
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not names or not is_list:
        raise UserError(f"{join_uri(uri, key)} needs `names`, a list of class names, got {names!r}")
    texts = tuple(names)
    if len(set(texts)) < len(texts):
        raise UserError(f"{join_uri(uri, key)} names a class twice: {', '.join(texts)}")
    if content.get("nc", str(len(texts))) != str(len(texts)):
        raise UserError(
            f"{join_uri(uri, key)} says nc: {content['nc']} and names {len(texts)} classes: "
            "correct one of them"
        )
    findings.classes = texts
    if shape := content.get("kpt_shape"):
        try:
            points, numbers = map(int, shape)
        except (TypeError, ValueError):
            raise UserError(
                f"{join_uri(uri, key)} needs kpt_shape as [key points, numbers of each], "
                f"got {shape!r}"
            ) from None
        findings.key_point_numbers = points * numbers


def _label_key(parts: list[str]) -> str:
    # The last `images` counts, as in Ultralytics.
    place = len(parts) - 2 - parts[-2::-1].index("images")
    path = PurePosixPath(*parts[:place], "labels", *parts[place + 1 :])
    return f"{without_suffix(path.as_posix())}.txt"


def _read_boxes(
    storage: Storage, key: str, findings: Findings, max_box_overhang: float
) -> ReadLabels:
    try:
        lines = storage.read_bytes(key).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LabelError(f"{key} is no text") from None
    boxes: list[Box] = []
    clipped: list[str] = []
    polygons: list[str] = []
    key_points: list[str] = []
    repeated: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{key} line {number}"
        class_name, corners, numbers = _parse_line(line, place, findings)
        box, is_clipped = _clip(class_name, corners, place, max_box_overhang)
        if numbers > 4:
            (key_points if findings.key_point_numbers else polygons).append(place)
        if is_clipped:
            clipped.append(place)
        if box in boxes:
            repeated.append(place)
        else:
            boxes.append(box)
    changed = (tuple(places) for places in (clipped, polygons, key_points, repeated))
    return ReadLabels(tuple(boxes), *changed)


def _parse_line(
    line: str, place: str, findings: Findings
) -> tuple[str, tuple[float, float, float, float], int]:
    """Return the class, the box's corners, and how many numbers there were."""
    fields, classes = line.split(), findings.classes
    try:
        index, numbers = float(fields[0]), [float(text) for text in fields[1:]]
    except ValueError:
        raise LabelError(f"{place}: needs numbers, got {line.strip()[:60]!r}") from None
    behind = findings.key_point_numbers
    is_polygon = not behind and len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) not in (4, 4 + behind) and not is_polygon:
        also = f", and {behind} of key points as data.yaml says" if behind else ""
        raise LabelError(
            f"{place}: needs 5 numbers (class, centre x, y, width, height){also}, got {len(fields)}"
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
        x, y, width, height = numbers[:4]
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return classes[int(index)], corners, len(numbers)


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


def _tell_unmatched(findings: Findings, catalogue: Catalogue) -> None:
    unused = (
        "FROM label_files WHERE key NOT IN (SELECT label_key FROM files WHERE label_key NOT NULL) "
        "AND key NOT LIKE '%/classes.txt' AND key NOT LIKE '%/notes.txt'"
    )
    if number := catalogue.value(f"SELECT COUNT(*) {unused}"):
        shown = ", ".join(catalogue.values(f"SELECT key {unused} ORDER BY key LIMIT {_SHOWN}"))
        have = "has" if number == 1 else "have"
        findings.warnings.append(f"{count(number, 'label file')} {have} no image: {shown}")
    images = "FROM files WHERE label_key NOT NULL"
    without = f"{images} AND label_key NOT IN (SELECT key FROM label_files)"
    number = catalogue.value(f"SELECT COUNT(*) {without}")
    first = catalogue.values(f"SELECT key {without} ORDER BY id LIMIT {_SHOWN}")
    if number and number == catalogue.value(f"SELECT COUNT(*) {images}"):
        raise UserError(
            f"boxes_uri {findings.uri} needs label files, got none: the boxes of "
            f"{first[0]} belong in {_label_key(first[0].split('/'))}"
        )
    if number:
        have = "has no label file and counts" if number == 1 else "have no label file and count"
        findings.warnings.append(
            f"{count(number, 'image')} {have} as background: {', '.join(first)}"
        )
