"""Publishing the data sets: versions that name the stored shards, and what they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sightline.data import SPLITS, Box, Sample, publish_dataset
from sightline.data.shards import Shard
from sightline.prepare.catalogue import MEMBERS, Catalogue


def pack(
    kind: str,
    catalogue: Catalogue,
    shards: Mapping[int, Sequence[Shard]],
    classes: Sequence[str],
    store_uri: str,
    short_side_px: int,
) -> str:
    """Publish one set as a data set version; an empty set has no address.

    Args:
        kind: `images`, `labels` or `boxes`.
        catalogue: What belongs to the set, and where it is stored.
        shards: The stored shards of each writer.
        classes: Class names of the set.
        store_uri: The data set store.
        short_side_px: What larger images were scaled down to.
    """
    members = MEMBERS[kind]
    used = [
        (writer, shard)
        for writer, shard in catalogue.rows(
            f"SELECT DISTINCT writer, shard FROM pictures WHERE {members} ORDER BY writer, shard"
        )
    ]
    if not used:
        return ""
    groups, scaled_down = next(
        catalogue.rows(
            f"SELECT COUNT(DISTINCT group_id), SUM(is_scaled) FROM pictures WHERE {members}"
        )
    )
    return publish_dataset(
        store_uri,
        kind=kind,
        classes=classes,
        shards=[shards[writer][shard] for writer, shard in used],
        samples=_list_samples(kind, catalogue, used),
        counts=count_members(kind, catalogue),
        groups=groups,
        stored_short_side_px=short_side_px,
        scaled_down=scaled_down,
    )


def count_members(kind: str, catalogue: Catalogue) -> dict[str, Any]:
    """Return how many images a set has, and for each split images, groups and classes.

    A class counts its images, or its boxes where there are boxes.
    """
    members = MEMBERS[kind]
    found = {
        split: (images, groups)
        for split, images, groups in catalogue.rows(
            f"SELECT split, COUNT(*), COUNT(DISTINCT group_id) FROM pictures WHERE {members} "
            "GROUP BY split"
        )
    }
    classes = _count_classes(kind, catalogue)
    counts: dict[str, Any] = {"images": sum(images for images, _ in found.values())}
    for split in SPLITS:
        images, groups = found.get(split, (0, 0))
        counts[split] = {
            "images": images,
            "groups": groups,
            "classes": {name: n for (s, name), n in sorted(classes.items()) if s == split},
        }
    return counts


def count_places(kind: str, catalogue: Catalogue) -> Counter[tuple[str, str | None]]:
    """Return how many images of a set each split and class has."""
    return Counter(
        {
            (split, label): images
            for split, label, images in catalogue.rows(
                f"SELECT split, label, COUNT(*) FROM pictures WHERE {MEMBERS[kind]} "
                "GROUP BY split, label"
            )
        }
    )


def read_stored_boxes(text: str) -> tuple[Box, ...]:
    """Return the boxes of a file as the catalogue keeps them."""
    return tuple(Box(*values) for values in json.loads(text))


def _count_classes(kind: str, catalogue: Catalogue) -> dict[tuple[str, str], int]:
    counted = {
        "images": "SELECT split, label, 0 FROM pictures WHERE FALSE",
        "labels": f"SELECT split, label, COUNT(*) FROM pictures WHERE {MEMBERS['labels']} "
        "GROUP BY split, label",
        "boxes": "SELECT pictures.split, json_extract(box.value, '$[0]') AS class, COUNT(*) "
        "FROM pictures JOIN files ON files.id = pictures.file, json_each(files.boxes) AS box "
        "WHERE pictures.kind = 'boxes' AND is_kept GROUP BY pictures.split, class",
    }
    return {(split, name): number for split, name, number in catalogue.rows(counted[kind])}


def _list_samples(
    kind: str, catalogue: Catalogue, used: Sequence[tuple[int, int]]
) -> Iterator[Sample]:
    places = {place: index for index, place in enumerate(used)}
    rows = catalogue.rows(
        "SELECT name, pictures.group_name, split, sha256, writer, shard, offset_bytes, "
        "pictures.size_bytes, width, height, pictures.label, boxes "
        f"FROM (SELECT * FROM pictures WHERE {MEMBERS[kind]}) AS pictures "
        "JOIN files ON files.id = pictures.file "
        "ORDER BY writer, shard, offset_bytes, pictures.id"
    )
    for (
        name,
        group,
        split,
        sha256,
        writer,
        shard,
        offset,
        size,
        width,
        height,
        label,
        boxes,
    ) in rows:
        yield Sample(
            name=name,
            group=group,
            split=split,
            sha256=sha256,
            shard=places[writer, shard],
            offset_bytes=offset,
            size_bytes=size,
            width=width,
            height=height,
            label=label if kind == "labels" else None,
            boxes=read_stored_boxes(boxes) if kind == "boxes" else None,
        )
