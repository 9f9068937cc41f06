"""The prepare step: check every image, split by group, find copies, pack, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightline.data import write_dataset
from sightline.data.shards import PackedImage
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.data_report import write_report
from sightline.prepare.duplicates import (
    Duplicates,
    PlacedImage,
    find_near_copies,
    protect_held_out,
    reject_two_classes,
    union_for_pretraining,
)
from sightline.prepare.facts import describe_result
from sightline.prepare.folders import Findings, find_class_folders, find_images
from sightline.prepare.intake import read_all, refuse_too_many_rejected
from sightline.prepare.splits import (
    Grouping,
    assign_splits,
    group_images,
    require_enough,
    require_every_split,
)
from sightline.prepare.table import match_rows, read_table
from sightline.prepare.yolo_labels import find_boxes
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import write_json
from sightline.telemetry import announce, count

KINDS = ("images", "labels", "boxes")


def run(uris: PrepareUris, config: PrepareConfig) -> dict[str, Any]:
    """Turn the user's folders into immutable data set versions and a data report.

    Returns:
        The versions' addresses under `datasets`, counts, duplicates, rejected files, warnings.

    Raises:
        UserError: If the folders hold nothing to work with, or something that spoils a number.
    """
    require_new(uris.out_uri)
    found = find_folders(uris, config)
    grouping, splits, warnings = decide_splits(found, uris, config)
    side = config.stored_short_side_px
    sides = {"images": side, "labels": side, "boxes": config.boxes_short_side_px}
    images = read_all(found, sides, config.max_bad_fraction)
    for findings in found:
        if findings.kind == "labels":
            images = reject_two_classes(images, findings)
            refuse_too_many_rejected(findings, config.max_bad_fraction)
    placed = [
        PlacedImage(image, grouping.of(image.found), splits[grouping.of(image.found)])
        for image in images
    ]
    duplicates = Duplicates()
    placed = protect_held_out(placed, duplicates)
    duplicates.near = find_near_copies(placed)
    sets = {kind: [image for image in placed if image.kind == kind] for kind in KINDS}
    sets["images"] = sets["images"] or union_for_pretraining(placed)
    classes = {findings.kind: findings.classes for findings in found}
    check_sets(sets, classes, config)
    announce("prepare", f"packing {count(sum(map(len, sets.values())), 'image')}")
    datasets = {kind: pack(kind, sets[kind], classes, uris, config) for kind in KINDS}
    metrics = describe_result(found, grouping, placed, duplicates, datasets, config.split_seed)
    metrics["warnings"] = [*grouping.warnings, *warnings, *metrics["warnings"]]
    with new_artifacts("prepare", uris, config, uris.out_uri) as folder:
        write_json(folder / "metrics.json", metrics)
        write_report(folder / "data_report.html", metrics, sets, config)
    announce("prepare", f"the data report is {uris.out_uri}/data_report.html")
    return metrics


def find_folders(uris: PrepareUris, config: PrepareConfig) -> list[Findings]:
    """Look through the folders that were given, before any image is read."""
    found = []
    if uris.images_uri:
        found.append(find_images(uris.images_uri))
    if uris.labels_uri:
        found.append(find_class_folders(uris.labels_uri))
    if uris.boxes_uri:
        found.append(find_boxes(uris.boxes_uri, config.max_box_overhang))
    for findings in found:
        announce("prepare", f"{count(findings.files, 'image')} under {findings.uri}")
    return found


def decide_splits(
    found: Sequence[Findings], uris: PrepareUris, config: PrepareConfig
) -> tuple[Grouping, dict[str, str], list[str]]:
    """Return every image's group, every group's split, and what a user must know of the table."""
    rows = read_table(uris.table_uri) if uris.table_uri else []
    images = [image for findings in found for image in findings.images]
    matched, warnings = match_rows(rows, images)
    grouping = group_images(images, matched, config.group_pattern)
    splits = assign_splits(
        found, grouping, matched, config.split_seed, config.test_fraction, config.val_fraction
    )
    return grouping, splits, warnings


def check_sets(
    sets: dict[str, list[PlacedImage]], classes: dict[str, tuple[str, ...]], config: PrepareConfig
) -> None:
    """Refuse sets that a later step could not learn from or measure on."""
    for kind, images in sets.items():
        if images:
            names = classes.get("labels", ()) if kind == "labels" else ()
            placed = [(image.split, image.read.found.label) for image in images]
            require_every_split(kind, names, placed)
            require_enough(names, placed, config.min_images_per_class)


def pack(
    kind: str,
    images: Sequence[PlacedImage],
    classes: dict[str, tuple[str, ...]],
    uris: PrepareUris,
    config: PrepareConfig,
) -> str:
    """Write one set as a data set version; an empty set has no address."""
    if not images:
        return ""
    packed = [
        PackedImage(
            content=image.read.content,
            suffix=image.read.suffix,
            name=image.key,
            group=image.group,
            split=image.split,
            width=image.read.width,
            height=image.read.height,
            label=image.read.found.label if kind == "labels" else None,
            boxes=image.read.found.boxes if kind == "boxes" else None,
        )
        for image in images
    ]
    return write_dataset(
        packed,
        uris.store_uri,
        kind=kind,
        classes=classes.get(kind, ()),
        shard_size_bytes=config.shard_size_mib * 2**20,
    )
