"""The same picture twice: where it would spoil a number it is left out, and always it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.prepare.catalogue import Catalogue
from sightline.prepare.leak import Leak, measure_leak
from sightline.prepare.near_copies import NearCopies, find_near_copies

Number = TypeVar("Number", bound=np.generic)

_SHOWN = 20
_SPLIT_OF = "CASE {} WHEN 2 THEN 'test' WHEN 1 THEN 'val' ELSE 'train' END"

# The pixels that carry several classes, with the first picture of all and the first of another
# class: each picture is told one of the two. To look for the other picture of each picture would
# take the square of their number.
_TWO_CLASSES = """
CREATE TABLE two_classes AS
SELECT pixels, MAX(CASE turn WHEN 1 THEN label END) AS first_label,
    MAX(CASE turn WHEN 1 THEN told END) AS first, MAX(CASE turn WHEN 2 THEN told END) AS second
FROM (
    SELECT pixels, label, name || ', class ' || label AS told,
        ROW_NUMBER() OVER (PARTITION BY pixels ORDER BY file, frame) AS turn
    FROM (
        SELECT *, ROW_NUMBER() OVER (PARTITION BY pixels, label ORDER BY file, frame) AS place
        FROM pictures WHERE kind = 'labels'
    ) WHERE place = 1
) GROUP BY pixels HAVING COUNT(*) > 1
"""
# The pictures whose pixels are there more than once, the one that decides first: it is the most
# held out of its set, and the first of those.
_HELD = """
CREATE TABLE held AS SELECT id, kind, pixels, name, split, held_out FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY kind, pixels ORDER BY held_out DESC, file, frame
    ) AS place
    FROM pictures WHERE rejected IS NULL AND pixels IN (
        SELECT pixels FROM pictures WHERE rejected IS NULL GROUP BY pixels HAVING COUNT(*) > 1
    )
) WHERE place = 1
"""
_PAIRS = """
CREATE TABLE pairs AS
SELECT p.kind || '/' || p.name || ' (' || p.split || ')' AS copy,
    h.kind || '/' || h.name || ' (' || h.split || ')' AS held,
    p.id, p.kind = 'images' AS is_pretraining, p.group_name, h.held_out
FROM pictures AS p JOIN held AS h ON h.pixels = p.pixels
WHERE p.rejected IS NULL AND h.held_out > p.held_out AND (p.kind = 'images' OR h.kind = p.kind)
ORDER BY is_pretraining, p.file, p.frame,
    CASE h.kind WHEN 'images' THEN 0 WHEN 'labels' THEN 1 ELSE 2 END
"""
# What the labelled set and the boxes share in different splits; of each set one picture is held.
_BETWEEN_SETS = """
FROM held AS l JOIN held AS b USING (pixels)
WHERE l.kind = 'labels' AND b.kind = 'boxes' AND l.split <> b.split
"""


@dataclass(frozen=True)
class Duplicates:
    """What was found; a pair names the copy in the earlier split, then the one that is held out.

    `between_sets` counts pictures of the labelled set that the boxes hold in another split.
    """

    same_split: int
    across_splits: int
    examples: tuple[tuple[str, str], ...]
    between_sets: int
    examples_between_sets: tuple[tuple[str, str], ...]
    moved_groups: int


@dataclass(frozen=True)
class NamedCopies:
    """Near copies; `ids` and `names` of the pictures belong to their examples."""

    copies: NearCopies
    ids: list[tuple[int, int]]
    names: list[tuple[str, str]]


def reject_two_classes(catalogue: Catalogue) -> None:
    """Leave out labelled images whose very pixels also carry another class; nobody knows which."""
    catalogue.execute("CREATE INDEX pictures_by_pixels ON pictures (pixels, kind)")
    catalogue.execute(_TWO_CLASSES)
    catalogue.execute("CREATE INDEX two_classes_by_pixels ON two_classes (pixels)")
    catalogue.execute(
        "UPDATE pictures SET rejected = 'has the very pixels of ' || "
        "CASE label WHEN first_label THEN second ELSE first END FROM two_classes "
        "WHERE kind = 'labels' AND two_classes.pixels = pictures.pixels"
    )


def place_pictures(catalogue: Catalogue) -> None:
    """Give every picture the group of its file, and the split of the group."""
    catalogue.execute(
        "UPDATE pictures SET group_id = groups.id, group_name = groups.name, split = groups.split "
        "FROM files JOIN groups ON groups.name = files.group_name WHERE files.id = pictures.file"
    )


def protect_held_out(catalogue: Catalogue) -> Duplicates:
    """Keep every picture of a held-out split out of training, whatever name it comes by.

    In the labelled set and in the boxes set, a picture that is in two splits stays in test, else
    in val. In the unlabelled set, the whole group of a picture that another set holds out moves
    to that split. The labelled set and the boxes leave each other alone: classifier and detector
    are each tested on their own test split, and share nothing but what is pretrained. What they
    hold in different splits is told.
    """
    catalogue.execute(_HELD)
    catalogue.execute("CREATE INDEX held_by_pixels ON held (pixels)")
    same_split = catalogue.value(
        "SELECT COUNT(*) - COUNT(DISTINCT held.id) FROM pictures JOIN held USING (pixels, kind) "
        "WHERE rejected IS NULL AND pictures.split = held.split"
    )
    catalogue.execute(_PAIRS)
    catalogue.execute(
        "UPDATE pictures SET is_copy = TRUE "
        "WHERE id IN (SELECT id FROM pairs WHERE NOT is_pretraining)"
    )
    catalogue.execute(
        "CREATE TABLE moved AS SELECT group_name, MAX(held_out) AS held_out FROM pairs "
        "WHERE is_pretraining GROUP BY group_name"
    )
    catalogue.execute(
        f"UPDATE pictures SET split = {_SPLIT_OF.format('moved.held_out')} FROM moved "
        "WHERE kind = 'images' AND moved.group_name = pictures.group_name "
        "AND moved.held_out > pictures.held_out"
    )
    examples = catalogue.rows(f"SELECT copy, held FROM pairs ORDER BY rowid LIMIT {_SHOWN}")
    between = catalogue.rows(
        "SELECT 'labels/' || l.name || ' (' || l.split || ')', "
        f"'boxes/' || b.name || ' (' || b.split || ')' {_BETWEEN_SETS} ORDER BY l.id LIMIT {_SHOWN}"
    )
    return Duplicates(
        same_split=same_split,
        across_splits=catalogue.value("SELECT COUNT(*) FROM pairs"),
        examples=tuple((copy, held) for copy, held in examples),
        between_sets=catalogue.value(f"SELECT COUNT(*) {_BETWEEN_SETS}"),
        examples_between_sets=tuple((ours, other) for ours, other in between),
        moved_groups=catalogue.value("SELECT COUNT(*) FROM moved"),
    )


def choose_for_pretraining(catalogue: Catalogue) -> None:
    """Mark the unlabelled images; without any, one copy of every picture of the other sets.

    Of several copies it is one in the most held-out split.
    """
    own = "UPDATE pictures SET is_pretrained_on = TRUE WHERE kind = 'images' AND is_kept"
    if not catalogue.execute(own):
        catalogue.execute(
            "UPDATE pictures SET is_pretrained_on = TRUE WHERE id IN (SELECT id FROM (SELECT id, "
            "ROW_NUMBER() OVER (PARTITION BY pixels ORDER BY held_out DESC, file, frame) AS place "
            "FROM pictures WHERE is_kept) WHERE place = 1)"
        )


def compare_thumbnails(catalogue: Catalogue) -> NamedCopies:
    """Find pairs that look the same in different groups and splits, and name the first of them."""
    catalogue.define("hash_of", 1, lambda pixels: int.from_bytes(pixels[:8], signed=True))
    ids = _column(catalogue, "id", "is_kept", np.int64)
    copies = find_near_copies(
        catalogue.thumbnails_of("is_kept"),
        groups=_column(catalogue, "group_id", "is_kept", np.int64),
        ranks=_column(catalogue, "held_out", "is_kept", np.int8),
        hashes=_column(catalogue, "hash_of(pixels)", "is_kept", np.int64),
    )
    pairs = [(int(ids[pair.row]), int(ids[pair.held_out_row])) for pair in copies.examples]
    query = "SELECT kind || '/' || name || ' (' || split || ')' FROM pictures WHERE id = ?"
    names = [(catalogue.value(query, (i,)), catalogue.value(query, (j,))) for i, j in pairs]
    return NamedCopies(copies, pairs, names)


def compare_splits(catalogue: Catalogue, seed: int) -> Leak | None:
    """Say how well the nearest thumbnail guesses with a random split, and with this one."""
    labelled = "kind = 'labels' AND is_kept"
    names = catalogue.values(f"SELECT DISTINCT label FROM pictures WHERE {labelled}")
    catalogue.define("class_index", 1, {name: i for i, name in enumerate(names)}.get)
    return measure_leak(
        catalogue.thumbnails_of(labelled),
        labels=_column(catalogue, "class_index(label)", labelled, np.int32),
        is_test=_column(catalogue, "held_out = 2", labelled, np.bool_),
        groups=_column(catalogue, "group_id", labelled, np.int64),
        seed=seed,
    )


def _column(
    catalogue: Catalogue, column: str, condition: str, kind: type[Number]
) -> NDArray[Number]:
    rows = catalogue.rows(f"SELECT {column} FROM pictures WHERE {condition} ORDER BY id")
    return np.fromiter((value for (value,) in rows), dtype=kind)
