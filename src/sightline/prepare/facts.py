"""What the step says of its work: the entries of `metrics.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sightline.prepare.catalogue import KINDS, Catalogue
from sightline.prepare.duplicates import Duplicates, NamedCopies
from sightline.prepare.folders import SHOWN_IGNORED, Findings
from sightline.prepare.leak import Leak
from sightline.prepare.packing import count_members
from sightline.prepare.splits import Grouping


def describe_result(
    found: Sequence[Findings],
    catalogue: Catalogue,
    grouping: Grouping,
    duplicates: Duplicates,
    near: NamedCopies,
    leak: Leak | None,
    datasets: Mapping[str, str],
) -> dict[str, Any]:
    """Return the metrics of a finished preparation; `datasets` are the versions' addresses."""
    return {
        "datasets": dict(datasets),
        "counts": {kind: count_members(kind, catalogue) for kind, uri in datasets.items() if uri},
        "classes": {f.kind: list(f.classes) for f in found if f.classes},
        "groups": describe_groups(grouping, catalogue),
        "duplicates": {
            "exact_same_split": duplicates.same_split,
            "exact_across_splits": duplicates.across_splits,
            "exact_between_labels_and_boxes": duplicates.between_sets,
            "near_across_splits": near.copies.count,
            "near_images": near.copies.images,
            "near_complete": near.copies.complete,
            "groups_moved_out_of_pretraining": duplicates.moved_groups,
            "examples_exact": [list(pair) for pair in duplicates.examples],
            "examples_between_labels_and_boxes": [
                list(pair) for pair in duplicates.examples_between_sets
            ],
            "examples_near": [list(pair) for pair in near.names],
        },
        "pixel_nearest_neighbour": leak.to_json() if leak else None,
        "adjusted": count_adjusted(catalogue),
        "rejected": [
            {"set": kind, "name": name, "reason": reason}
            for kind in KINDS
            for name, reason in catalogue.rows(
                "SELECT name, reason FROM rejected WHERE kind = ? ORDER BY stage, file", (kind,)
            )
        ],
        "ignored": list_ignored(found),
        "warnings": [warning for findings in found for warning in findings.warnings],
    }


def describe_groups(grouping: Grouping, catalogue: Catalogue) -> dict[str, Any]:
    """Say where groups came from, of how many images they are known, and how many there are."""
    torn = (
        "SELECT COUNT(DISTINCT group_id) FROM (SELECT group_id FROM pictures WHERE is_kept "
        "GROUP BY {} HAVING COUNT(DISTINCT split) > 1)"
    )
    return {
        "source": grouping.source,
        "known": grouping.known,
        "images": grouping.images,
        "count": catalogue.value("SELECT COUNT(DISTINCT group_id) FROM pictures WHERE is_kept"),
        # Over all sets: the unlabelled images of a group may have moved alone, and nothing else.
        "in_several_splits": catalogue.value(torn.format("group_id")),
        "in_several_splits_of_a_set": catalogue.value(torn.format("kind, group_id")),
        # What the files themselves say, whatever became of it.
        "patients_in_several_splits": catalogue.value(
            "SELECT COUNT(DISTINCT patient) FROM (SELECT patient FROM pictures "
            "JOIN files ON files.id = pictures.file WHERE is_kept AND patient NOT NULL "
            "GROUP BY pictures.kind, patient HAVING COUNT(DISTINCT split) > 1)"
        ),
    }


def list_ignored(found: Sequence[Findings]) -> dict[str, Any]:
    """Count the files that were not read because they are no images, and name the first."""
    names = [f"{findings.kind}/{name}" for findings in found for name in findings.first_ignored]
    return {
        "count": sum(findings.ignored for findings in found),
        "examples": names[:SHOWN_IGNORED],
    }


def count_adjusted(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Count the images that were read with a change, such as a rotation, by kind of change.

    The example is the first of them; of those that a window cuts, the one it cuts most, which
    `most_beyond_percent` tells.
    """
    changed: dict[str, dict[str, Any]] = {}
    for kind, name, notes in catalogue.rows(
        "SELECT kind, name, notes FROM pictures WHERE is_kept AND notes NOT NULL "
        "ORDER BY file, frame"
    ):
        for note in json.loads(notes):
            # The values of a window and the count of pixels differ from image to image.
            change = re.sub(r"^\d+ pixels? ", "pixels ", note.split(", values")[0])
            example = f"{kind}/{name}: {note}"
            entry = changed.setdefault(change, {"change": change, "images": 0, "example": example})
            entry["images"] += 1
            if cut := re.search(r"(\d+) % of the pixels beyond", note):
                beyond = int(cut[1])
                if beyond > entry.get("most_beyond_percent", -1):
                    entry |= {"most_beyond_percent": beyond, "example": example}
    return [changed[change] for change in sorted(changed)]
