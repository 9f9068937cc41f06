"""The user's table: which image belongs to which group (patient), and to which split."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from sightline.config import UserError
from sightline.prepare.folders import SPLIT_NAMES, FoundImage
from sightline.storage import open_storage
from sightline.telemetry import count

_COLUMNS = ("name", "group", "split")


@dataclass(frozen=True)
class Row:
    """One line of the table; an empty group or split says nothing."""

    line: int
    name: str
    group: str
    split: str


def read_table(uri: str) -> list[Row]:
    """Read the CSV file; commas, semicolons and tabs separate.

    Raises:
        UserError: If it is no such table; every wrong line is named.
    """
    folder, slash, name = uri.rpartition("/")
    content = open_storage(folder or ("/" if slash else ".")).read_bytes(name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"table_uri {uri} must be UTF-8 text: save it as CSV UTF-8") from None
    header = text.split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    fields = {(field or "").strip().lower(): field for field in reader.fieldnames or ()}
    if "name" not in fields or not ({"group", "split"} & fields.keys()):
        raise UserError(
            f"table_uri {uri} needs the columns name and group (or split, or both), got "
            f"{', '.join(fields) or 'nothing'}"
        )
    rows, problems = [], []
    for values in reader:
        line = reader.line_num
        if None in values:
            problems.append(f"line {line} has more columns than the header")
            continue
        texts = {c: (values.get(fields.get(c, ""), "") or "").strip() for c in _COLUMNS}
        split = SPLIT_NAMES.get(texts["split"].lower(), "")
        if texts["split"] and not split:
            problems.append(f"line {line}: split {texts['split']!r} is none of train, val, test")
        if not texts["name"]:
            problems.append(f"line {line} has no name")
        rows.append(Row(line, texts["name"], texts["group"], split))
    if problems:
        shown = "; ".join(problems[:10])
        raise UserError(f"table_uri {uri} has {count(len(problems), 'wrong line')}: {shown}")
    return rows


def match_rows(
    rows: Iterable[Row], images: Iterable[FoundImage]
) -> tuple[dict[tuple[str, str], Row], list[str]]:
    """Find each row's images: by path, or by file name with or without suffix.

    Returns:
        The row of an image by (kind, key), and what a user must know: rows without an image.

    Raises:
        UserError: If a row fits several images of one folder, or two rows fit one and disagree.
    """
    by_name: dict[str, list[FoundImage]] = defaultdict(list)
    for image in images:
        for name in _names(image):
            by_name[name].append(image)
    matched: dict[tuple[str, str], Row] = {}
    without, ambiguous, contradictory = [], [], []
    for row in rows:
        found = by_name.get(row.name.replace("\\", "/").removeprefix("./"), [])
        if not found:
            without.append(row.name)
        for kind in {image.kind for image in found}:
            candidates = [image for image in found if image.kind == kind]
            exact = [image for image in candidates if row.name in (image.key, image.own_name)]
            if len(exact or candidates) > 1:
                shown = ", ".join(image.key for image in candidates[:3])
                ambiguous.append(f"line {row.line}: {row.name} ({shown})")
                continue
            image = (exact or candidates)[0]
            earlier = matched.setdefault((image.kind, image.key), row)
            if (earlier.group, earlier.split) != (row.group, row.split):
                contradictory.append(f"lines {earlier.line} and {row.line}: {row.name}")
    if ambiguous:
        fit = "fits" if len(ambiguous) == 1 else "fit"
        raise UserError(
            f"{count(len(ambiguous), 'name')} of the table {fit} several images of one folder: "
            f"{'; '.join(ambiguous[:5])}: write the path below the folder"
        )
    if contradictory:
        raise UserError(
            f"the table says two things of {count(len(contradictory), 'image')}: "
            f"{'; '.join(contradictory[:5])}"
        )
    warnings = []
    if without:
        shown = ", ".join(without[:5])
        have = "row of the table has" if len(without) == 1 else "rows of the table have"
        warnings.append(f"{len(without)} {have} no image: {shown}")
    return matched, warnings


def _names(image: FoundImage) -> set[str]:
    names = {image.key, image.own_name, PurePosixPath(image.key).name}
    return names | {str(PurePosixPath(name).with_suffix("")) for name in names}
