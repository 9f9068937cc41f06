"""What is known of every file and picture while a set is prepared: a scratch database on disk.

Memory stays flat however large the set is: a decision is a query, and a list is never built. The
database and the thumbnails beside it live in a scratch folder and end with the step.
"""

from __future__ import annotations

import mmap
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sightline.data import derived_seed
from sightline.prepare.pictures import THUMBNAIL_SIDE_PX

# A file's id is its place in the listing. `turn` is a hash of its name: files are read in that
# order, so that shards are shuffled as they are written. A stage says when a file was rejected.
# A picture is what was read of a file; its id is its row among the thumbnails.
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    own_name TEXT,
    folder_split TEXT,
    label TEXT,
    label_key TEXT,
    boxes TEXT,
    size_bytes INTEGER,
    turn INTEGER,
    table_group TEXT,
    table_split TEXT,
    patient TEXT,
    named_group TEXT,
    group_name TEXT AS (COALESCE(named_group, key)),
    stage INTEGER,
    rejected TEXT
);
CREATE TABLE label_files (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE table_rows (line INTEGER PRIMARY KEY, name TEXT, group_name TEXT, split TEXT);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT UNIQUE, split TEXT);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY,
    file INTEGER NOT NULL,
    frame INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    label TEXT,
    sha256 TEXT,
    writer INTEGER,
    shard INTEGER,
    offset_bytes INTEGER,
    size_bytes INTEGER,
    width INTEGER,
    height INTEGER,
    is_scaled INTEGER,
    pixels BLOB,
    notes TEXT,
    group_id INTEGER,
    group_name TEXT,
    split TEXT,
    held_out INTEGER AS (CASE split WHEN 'test' THEN 2 WHEN 'val' THEN 1 ELSE 0 END),
    rejected TEXT,
    is_copy INTEGER NOT NULL DEFAULT 0,
    is_kept INTEGER AS (rejected IS NULL AND NOT is_copy),
    is_pretrained_on INTEGER NOT NULL DEFAULT 0
);
CREATE VIEW rejected AS
    SELECT kind, key AS name, rejected AS reason, stage, id AS file FROM files
    WHERE rejected NOT NULL
    UNION ALL
    SELECT kind, name, rejected, 4, file FROM pictures WHERE rejected NOT NULL;
"""

# What belongs to a data set, as a condition on pictures.
MEMBERS = {
    "images": "is_pretrained_on",
    "labels": "kind = 'labels' AND is_kept",
    "boxes": "kind = 'boxes' AND is_kept",
}
KINDS = tuple(MEMBERS)

_CACHE_KIB = 8 * 1024
_THUMBNAIL_BYTES = THUMBNAIL_SIDE_PX**2
_BATCH = 1000
_ROWS = 64


class Stage(IntEnum):
    """When a file was rejected; reasons are told in this order."""

    LISTING = 0
    LAYOUT = 1
    LABELS = 2
    READING = 3


# Files that decide with others on groups and splits: they were refused, if at all, after that.
HAS_A_SAY = f"(stage IS NULL OR stage = {int(Stage.READING)})"


@dataclass(frozen=True)
class ListedFile:
    """A file before it is read: where it lies and what its folders say.

    `own_name` is its path without the folders that only sort (`images/`, `train/`): a table may
    name it so. `label_key` is where the file with its boxes would be.
    """

    kind: str
    key: str
    size_bytes: int = 0
    own_name: str | None = None
    folder_split: str | None = None
    label: str | None = None
    label_key: str | None = None
    stage: Stage | None = None
    rejected: str | None = None


class Catalogue:
    """The tables of one preparation; one thread uses them."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
        # Scratch: nobody reads it after a crash, so nothing is journalled or forced to disk.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._connection.execute("PRAGMA temp_store=FILE")
        self._connection.executescript(_SCHEMA)
        # One transaction for everything: its pages go to disk when the cache is full.
        self._connection.execute("BEGIN")
        self._thumbnails_path = folder / "thumbnails.u8"
        self._thumbnails = self._thumbnails_path.open("wb", buffering=2**16)
        # One statement for many pictures: each lets the reading threads have the interpreter, and
        # waits to get it back.
        self._names: tuple[str, ...] = ()
        self._waiting: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thumbnails.close()
        self._connection.close()

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Make a pure function known to queries."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed."""
        return self._run(statement, values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for every row of values, which may be a stream."""
        self._add_waiting()
        self._connection.executemany(statement, rows)

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query; what it reads must stay as it is meanwhile."""
        return self._run(query, values)

    def values(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the first value of each row."""
        return [row[0] for row in self._run(query, values)]

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Return the first value of the first row."""
        return self._run(query, values).fetchone()[0]

    def add_files(self, files: Iterable[ListedFile]) -> None:
        """Add files in the order of the listing, from a stream."""
        self.execute_many(
            "INSERT INTO files (kind, key, size_bytes, own_name, folder_split, label, label_key, "
            "stage, rejected, turn) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((*vars(file).values(), derived_seed("turn", file.kind, file.key)) for file in files),
        )

    def reject(self, file: int, stage: Stage, reason: str) -> None:
        """Leave a file out."""
        self.execute(
            "UPDATE files SET stage = ?, rejected = ? WHERE id = ?", (int(stage), reason, file)
        )

    def files_by(self, order: str, columns: str, condition: str = "TRUE") -> Iterator[Any]:
        """Yield columns of the files that are not rejected; they may be changed meanwhile.

        Args:
            order: The column that they are ordered by: `id` or `turn`.
            columns: What to yield, such as `files.id, key`.
            condition: Which files.
        """
        self.execute(f"CREATE INDEX IF NOT EXISTS files_by_{order} ON files ({order})")
        last = (-1, -1)
        while batch := self._run(
            f"SELECT files.{order}, files.id, {columns} FROM files "
            "LEFT JOIN groups ON groups.name = files.group_name "
            f"WHERE (files.{order}, files.id) > (?, ?) AND rejected IS NULL AND {condition} "
            f"ORDER BY files.{order}, files.id LIMIT {_BATCH}",
            last,
        ).fetchall():
            for _, _, *wanted in batch:
                yield wanted
            last = batch[-1][:2]

    def add_picture(self, values: Mapping[str, Any], thumbnail: bytes) -> None:
        """Add what was read of a file; its thumbnail becomes the next row of the thumbnails."""
        names = tuple(values)
        if names != self._names or len(self._waiting) == _ROWS:
            self._add_waiting()
            self._names = names
        self._waiting.append(tuple(values.values()))
        self._thumbnails.write(thumbnail)

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._add_waiting()
        return self._connection.execute(statement, values)

    def _add_waiting(self) -> None:
        """Write the pictures that wait, before anything may ask for them."""
        if not self._waiting:
            return
        marks = f"({', '.join('?' * len(self._names))})"
        statement = f"INSERT INTO pictures ({', '.join(self._names)}) VALUES "
        statement += ", ".join([marks] * len(self._waiting))
        self._connection.execute(statement, [value for row in self._waiting for value in row])
        self._waiting.clear()

    def thumbnails_of(self, condition: str) -> NDArray[np.uint8]:
        """Return the thumbnails of some pictures, by id, shape (N, 1024), in a file on disk."""
        self._thumbnails.flush()
        total = self.value("SELECT COUNT(*) FROM pictures")
        chosen = self.value(f"SELECT COUNT(*) FROM pictures WHERE {condition}")
        if chosen == total:
            return self._map(self._thumbnails_path, total)
        path = self._thumbnails_path.with_suffix(".chosen.u8")
        ids = self.rows(f"SELECT id FROM pictures WHERE {condition} ORDER BY id")
        with self._thumbnails_path.open("rb") as source, path.open("wb") as target:
            for (number,) in ids:
                source.seek((number - 1) * _THUMBNAIL_BYTES)
                target.write(source.read(_THUMBNAIL_BYTES))
        return self._map(path, chosen)

    def _map(self, path: Path, rows: int) -> NDArray[np.uint8]:
        if not rows:
            return np.empty((0, _THUMBNAIL_BYTES), dtype=np.uint8)
        return _Rows(path, dtype=np.uint8, mode="r", shape=(rows, _THUMBNAIL_BYTES))


class _Rows(np.memmap):
    """Rows of a file, of which no more stay in memory than were asked for last."""

    _mmap: mmap.mmap

    def __getitem__(self, rows: Any) -> Any:
        copied = np.array(super().__getitem__(rows))
        self._mmap.madvise(mmap.MADV_DONTNEED)
        return copied
