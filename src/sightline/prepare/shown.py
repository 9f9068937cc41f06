"""The few pictures that the data report shows, read back from the shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sightline.data import derived_seed
from sightline.data.shards import Shard
from sightline.prepare.catalogue import MEMBERS, Catalogue
from sightline.prepare.data_report import ShownPair, ShownPicture, ShownSet
from sightline.prepare.duplicates import NamedCopies
from sightline.prepare.packing import read_stored_boxes
from sightline.storage import open_storage

_SHOWN_PAIRS = 6


class Showcase:
    """Chooses pictures, the same for the same seed."""

    def __init__(
        self,
        catalogue: Catalogue,
        shards: Mapping[int, Sequence[Shard]],
        store_uri: str,
        seed: int,
        pictures: int,
    ) -> None:
        self._catalogue = catalogue
        self._shards = shards
        self._storage = open_storage(store_uri)
        self._pictures = pictures
        catalogue.define("sample_turn", 1, lambda name: derived_seed("sample", seed, name))

    def show_set(self, kind: str, classes: Sequence[str]) -> ShownSet:
        """Return sample pictures by class, training first, and one a group before a second."""
        catalogue, members = self._catalogue, MEMBERS[kind]
        background = 0
        if kind == "boxes":
            without = f"{members} AND file IN (SELECT id FROM files WHERE boxes = '[]')"
            background = catalogue.value(f"SELECT COUNT(*) FROM pictures WHERE {without}")
        samples = []
        for name in [*classes, "background"] if classes else [""]:
            pictures = list(self._choose(kind, name))
            if pictures:
                samples.append((name, pictures))
        return ShownSet(kind, background, samples)

    def show_pairs(self, near: NamedCopies) -> list[ShownPair]:
        """Return the first near copies with both pictures."""
        return [
            ShownPair(
                self._read(first, with_kind=True),
                self._read(held_out, with_kind=True),
                pair.correlation,
            )
            for pair, (first, held_out) in zip(
                near.copies.examples[:_SHOWN_PAIRS], near.ids, strict=False
            )
        ]

    def _choose(self, kind: str, class_name: str) -> Iterator[ShownPicture]:
        condition = {
            "images": "?1 = ''",
            "labels": "label = ?1",
            "boxes": "EXISTS (SELECT 1 FROM files, json_each(files.boxes) AS box "
            "WHERE files.id = file AND json_extract(box.value, '$[0]') = ?1)",
        }[kind]
        if kind == "boxes" and class_name == "background":
            condition = "?1 NOT NULL AND file IN (SELECT id FROM files WHERE boxes = '[]')"
        chosen = self._catalogue.values(
            "SELECT id FROM (SELECT id, split, turn, ROW_NUMBER() OVER ("
            "PARTITION BY group_id ORDER BY split <> 'train', turn) AS place "
            "FROM (SELECT *, sample_turn(name) AS turn FROM pictures "
            f"WHERE {MEMBERS[kind]} AND {condition})) "
            f"ORDER BY place > 1, split <> 'train', turn LIMIT {self._pictures}",
            (class_name,),
        )
        for picture in chosen:
            yield self._read(picture, with_boxes=kind == "boxes")

    def _read(
        self, picture: int, with_kind: bool = False, with_boxes: bool = False
    ) -> ShownPicture:
        kind, name, group, split, writer, shard, offset, size, boxes = next(
            self._catalogue.rows(
                "SELECT pictures.kind, name, pictures.group_name, split, writer, shard, "
                "offset_bytes, pictures.size_bytes, boxes "
                "FROM pictures JOIN files ON files.id = file WHERE pictures.id = ?",
                (picture,),
            )
        )
        return ShownPicture(
            name=f"{kind}/{name}" if with_kind else name,
            group=group,
            split=split,
            content=self._storage.read_bytes(self._shards[writer][shard].name, offset, size),
            boxes=read_stored_boxes(boxes) if with_boxes else (),
        )
