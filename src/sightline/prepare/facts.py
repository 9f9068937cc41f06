"""What the step says of its work: the entries of `metrics.json`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sightline.data import open_dataset
from sightline.prepare.duplicates import Duplicates, PlacedImage, measure_leak
from sightline.prepare.folders import Findings
from sightline.prepare.splits import Grouping

_SHOWN_IGNORED = 50


def describe_result(
    found: Sequence[Findings],
    grouping: Grouping,
    images: Sequence[PlacedImage],
    duplicates: Duplicates,
    datasets: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    """Return the metrics of a finished preparation; `datasets` are the versions' addresses."""
    return {
        "datasets": dict(datasets),
        "counts": {
            kind: open_dataset(uri).manifest["counts"] for kind, uri in datasets.items() if uri
        },
        "classes": {f.kind: list(f.classes) for f in found if f.classes},
        "groups": describe_groups(grouping, images),
        "duplicates": duplicates.to_json(),
        "pixel_nearest_neighbour": measure_leak(images, seed),
        "adjusted": count_adjusted(images),
        "rejected": [
            {"set": findings.kind, "name": name, "reason": reason}
            for findings in found
            for name, reason in findings.rejected.items()
        ],
        "ignored": list_ignored(found),
        "warnings": [warning for findings in found for warning in findings.warnings],
    }


def describe_groups(grouping: Grouping, images: Sequence[PlacedImage]) -> dict[str, Any]:
    """Say where groups came from, of how many images they are known, and how many there are."""
    return {
        "source": grouping.source,
        "known": grouping.known,
        "images": len(grouping.groups),
        "count": len({image.group for image in images}),
    }


def list_ignored(found: Sequence[Findings]) -> dict[str, Any]:
    """Count the files that were not read because they are no images, and name the first."""
    names = [f"{findings.kind}/{name}" for findings in found for name in findings.ignored]
    return {"count": len(names), "examples": names[:_SHOWN_IGNORED]}


def count_adjusted(images: Sequence[PlacedImage]) -> list[dict[str, Any]]:
    """Count the images that were read with a change, such as a rotation, by kind of change."""
    changed: dict[str, list[str]] = defaultdict(list)
    for image in images:
        for note in image.read.notes:
            # The values of a window and the count of pixels differ from image to image.
            change = re.sub(r"^\d+ pixels? ", "pixels ", note.split(", values")[0])
            changed[change].append(f"{image.kind}/{image.key}: {note}")
    return [
        {"change": change, "images": len(names), "example": names[0]}
        for change, names in sorted(changed.items())
    ]
