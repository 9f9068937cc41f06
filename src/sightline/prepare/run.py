"""The prepare step: check every image, split by group, find copies, pack, report."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.prepare.catalogue import KINDS, Catalogue
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.data_report import write_report
from sightline.prepare.duplicates import (
    choose_for_pretraining,
    compare_splits,
    compare_thumbnails,
    place_pictures,
    protect_held_out,
    reject_two_classes,
)
from sightline.prepare.facts import describe_result
from sightline.prepare.folders import (
    Findings,
    count_files,
    find_class_folders,
    find_images,
    reject_large_files,
)
from sightline.prepare.intake import read_all, refuse_too_many_rejected
from sightline.prepare.leftovers import remove_leftovers
from sightline.prepare.packing import count_places, pack
from sightline.prepare.shown import Showcase
from sightline.prepare.splits import (
    assign_splits,
    describe_grouping,
    group_files,
    require_enough,
    require_every_split,
)
from sightline.prepare.table import match_rows, read_table
from sightline.prepare.yolo_labels import find_boxes, read_boxes
from sightline.storage import new_artifacts, open_storage
from sightline.storage.artifacts import write_json
from sightline.storage.scratch import ScratchFolder
from sightline.telemetry import announce, count

# A write that fails for lack of space reaches SQLite as one of these.
_DATABASE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def run(uris: PrepareUris, config: PrepareConfig) -> dict[str, Any]:
    """Turn the user's folders into immutable data set versions and a data report.

    Images stream from the folders into shards; what is known of them waits in a scratch database.
    Nobody sees a shard before a version names it, and a version appears whole.

    Returns:
        The versions' addresses under `datasets`, counts, duplicates, rejected files, warnings.

    Raises:
        UserError: If the folders hold nothing to work with, or something that spoils a number.
    """
    open_storage(uris.store_uri).require_writable()
    remove_leftovers(uris.store_uri)
    # From the start: a twin that ends while this one works publishes the same, and is no obstacle.
    with (
        _full_disk_told(),
        new_artifacts("prepare", uris, config, uris.out_uri) as folder,
        ScratchFolder("catalogue") as scratch,
        Catalogue(scratch) as catalogue,
        ExitStack() as writing,
    ):
        metrics = _prepare(uris, config, catalogue, folder, writing)
    announce("prepare", f"the data report is {uris.out_uri}/data_report.html")
    return metrics


def _prepare(
    uris: PrepareUris,
    config: PrepareConfig,
    catalogue: Catalogue,
    folder: Path,
    writing: ExitStack,
) -> dict[str, Any]:
    found = find_folders(uris, config, catalogue)
    told = []
    if uris.table_uri:
        read_table(uris.table_uri, catalogue)
        told = match_rows(catalogue)
    decide_splits(catalogue, config)
    writers = read_all(found, catalogue, uris.store_uri, config, writing)
    if catalogue.value("SELECT COUNT(patient) FROM files"):
        decide_splits(catalogue, config)
    reject_two_classes(catalogue)
    for findings in found:
        refuse_too_many_rejected(findings, catalogue, config.max_bad_fraction)
    place_pictures(catalogue)
    duplicates = protect_held_out(catalogue)
    choose_for_pretraining(catalogue)
    classes = {findings.kind: findings.classes for findings in found}
    check_sets(catalogue, classes.get("labels", ()), config)
    near = compare_thumbnails(catalogue)
    leak = compare_splits(catalogue, config.split_seed)
    # Until here the last shards were on their way.
    shards = {number: writer.close() for number, writer in writers.items()}
    side = config.stored_short_side_px
    sides = {"images": side, "labels": side, "boxes": config.boxes_short_side_px}
    datasets = {
        kind: pack(kind, catalogue, shards, classes.get(kind, ()), uris.store_uri, sides[kind])
        for kind in KINDS
    }
    grouping = describe_grouping(catalogue)
    metrics = describe_result(found, catalogue, grouping, duplicates, near, leak, datasets)
    metrics["warnings"] = [*grouping.warnings, *told, *metrics["warnings"]]
    showcase = Showcase(
        catalogue, shards, uris.store_uri, config.split_seed, config.report_pictures
    )
    sets = [showcase.show_set(kind, classes.get(kind, ())) for kind in KINDS if datasets[kind]]
    write_json(folder / "metrics.json", metrics)
    write_report(folder / "data_report.html", metrics, sets, showcase.show_pairs(near), config)
    return metrics


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        if isinstance(error, OSError) and error.errno not in full:
            raise
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF not in _DATABASE_FULL:
            raise
        raise UserError(
            f"the scratch folder {tempfile.gettempdir()} is full ({error}): prepare needs there "
            "about 2 KB an image and at most two shards for each set and split; free some space, "
            "lower shard_size_mib, or name another folder by TMPDIR"
        ) from None


def find_folders(
    uris: PrepareUris, config: PrepareConfig, catalogue: Catalogue
) -> Sequence[Findings]:
    """Look through the folders that were given, before any image is read."""
    found = []
    if uris.images_uri:
        found.append(find_images(uris.images_uri, catalogue))
    if uris.labels_uri:
        found.append(find_class_folders(uris.labels_uri, catalogue))
    if uris.boxes_uri:
        found.append(find_boxes(uris.boxes_uri, catalogue))
    reject_large_files(catalogue, config.max_file_mib)
    for findings in found:
        files = count_files(catalogue, findings.kind)
        announce("prepare", f"{count(files, 'image')} under {findings.uri}")
        if findings.kind == "boxes":
            read_boxes(findings, catalogue, config.max_box_overhang)
    return found


def decide_splits(catalogue: Catalogue, config: PrepareConfig) -> None:
    """Give every file its group, and every group its split."""
    group_files(catalogue, config.group_pattern)
    assign_splits(catalogue, config.split_seed, config.test_fraction, config.val_fraction)


def check_sets(catalogue: Catalogue, labels: Sequence[str], config: PrepareConfig) -> None:
    """Refuse sets that a later step could not learn from or measure on."""
    for kind in KINDS:
        placed = count_places(kind, catalogue)
        if placed:
            names = labels if kind == "labels" else ()
            require_every_split(kind, names, placed)
            require_enough(names, placed, config.min_images_per_class)
