"""The few pictures that the data report shows, read back from the shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from sightline.data import derived_seed
from sightline.data.dataset import verify_member
from sightline.data.readahead import read_ahead
from sightline.data.shards import Shard
from sightline.prepare.catalogue import MEMBERS, Catalogue
from sightline.prepare.data_report import ShownPair, ShownPicture, ShownSet
from sightline.prepare.duplicates import NamedCopies
from sightline.prepare.packing import read_stored_boxes
from sightline.storage import join_uri, open_storage
from sightline.storage.verified import read_verified

_SHOWN_PAIRS = 6


class _Row(NamedTuple):
    """What the catalogue knows of a picture to be shown."""

    kind: str
    name: str
    group: str
    split: str
    writer: int
    shard: int
    offset_bytes: int
    size_bytes: int
    sha256: str
    boxes: str


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
        chosen = [
            (name, self._choose(kind, name))
            for name in ([*classes, "background"] if classes else [""])
        ]
        every = [picture for _, pictures in chosen for picture in pictures]
        shown = self._read(every, with_boxes=kind == "boxes")
        samples = [
            (name, list(islice(shown, len(pictures)))) for name, pictures in chosen if pictures
        ]
        return ShownSet(kind, background, samples)

    def show_pairs(self, near: NamedCopies) -> list[ShownPair]:
        """Return the first near copies with both pictures."""
        pairs = near.copies.examples[:_SHOWN_PAIRS]
        shown = self._read(
            [picture for ids in near.ids[: len(pairs)] for picture in ids], with_kind=True
        )
        return [
            ShownPair(first, held_out, pair.correlation)
            for pair, first, held_out in zip(pairs, shown, shown, strict=False)
        ]

    def _choose(self, kind: str, class_name: str) -> list[int]:
        condition = {
            "images": "?1 = ''",
            "labels": "label = ?1",
            "boxes": "EXISTS (SELECT 1 FROM files, json_each(files.boxes) AS box "
            "WHERE files.id = file AND json_extract(box.value, '$[0]') = ?1)",
        }[kind]
        if kind == "boxes" and class_name == "background":
            condition = "?1 NOT NULL AND file IN (SELECT id FROM files WHERE boxes = '[]')"
        return self._catalogue.values(
            "SELECT id FROM (SELECT id, split, turn, ROW_NUMBER() OVER ("
            "PARTITION BY group_id ORDER BY split <> 'train', turn) AS place "
            "FROM (SELECT *, sample_turn(name) AS turn FROM pictures "
            f"WHERE {MEMBERS[kind]} AND {condition})) "
            f"ORDER BY place > 1, split <> 'train', turn LIMIT {self._pictures}",
            (class_name,),
        )

    def _read(
        self, pictures: Sequence[int], with_kind: bool = False, with_boxes: bool = False
    ) -> Iterator[ShownPicture]:
        """Yield the pictures in their order, many read at once."""
        requests = self._storage.parallel_requests
        # The database belongs to this thread: only the bytes are read in others.
        rows = [self._find(picture) for picture in pictures]
        contents = read_ahead(self._read_bytes, rows, requests, requests)
        for row, content in zip(rows, contents, strict=True):
            yield ShownPicture(
                name=f"{row.kind}/{row.name}" if with_kind else row.name,
                group=row.group,
                split=row.split,
                content=content,
                boxes=read_stored_boxes(row.boxes) if with_boxes else (),
            )

    def _find(self, picture: int) -> _Row:
        (row,) = self._catalogue.rows(
            "SELECT pictures.kind, name, pictures.group_name, split, writer, shard, "
            "offset_bytes, pictures.size_bytes, sha256, boxes "
            "FROM pictures JOIN files ON files.id = file WHERE pictures.id = ?",
            (picture,),
        )
        return _Row(*row)

    def _read_bytes(self, row: _Row) -> bytes:
        shard = self._shards[row.writer][row.shard].name
        shard_uri = join_uri(self._storage.uri, shard)

        def read() -> bytes:
            content = self._storage.read_bytes(shard, row.offset_bytes, row.size_bytes)
            return verify_member(content, row.sha256, row.name, shard_uri)

        return read_verified(shard_uri, read)
