"""The names that runs write below their root, and what lies under them: all else is left alone."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sightline.data.shards import SHARDS_FOLDER
from sightline.storage import Entry, join_uri, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.local import LocalStorage
from sightline.telemetry import track

STEPS = ("prepare", "pretrain", "evaluate", "finetune", "detect", "report", "promote")
"""Folders of a run; the table of steps imports this part of the library, not the other way."""
CHAMPION, HISTORY = "champion.json", "history"
"""What a model's name is followed by; versions lie beside."""

_RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_MODEL = r"(?:classification|detection)/[a-z0-9][a-z0-9._-]{0,62}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SHA256 = r"[0-9a-f]{64}"
_PARTIAL = r"\.partial-[^/]+"  # a folder's unfinished write; no store lists it among its objects
_PATTERNS: Mapping[str, str] = {
    # Format 1 kept a version's shards in its own folder.
    "datasets": r"([0-9a-f]{16})/"
    rf"(?:manifest\.json|samples\.jsonl|shard-[0-9]{{5,}}\.tar|{_PARTIAL})"
    rf"|({SHARDS_FOLDER})/(?:{_SHA256}\.tar|{_PARTIAL})",
    "runs": rf"({_RUN_ID})/(?:{'|'.join(STEPS)})/.+",
    "models": rf"({_MODEL}/{CHAMPION})|({_MODEL}/{HISTORY}/{_SHA256}\.json)"
    rf"|({_MODEL}/versions/{_VERSION})/.+|({_MODEL}/(?:{HISTORY}/)?{_PARTIAL})",
}
POINTER = "checkpoints/latest.json"
"""What a training that has not finished leaves in its step's folder."""
_MARK = re.compile(
    rf"(?:(?P<step>.+)/)?"
    rf"(?P<name>(?:manifest|artifacts|config|metrics)\.json|{re.escape(POINTER)})",
    re.DOTALL,
)


@dataclass
class Unit:
    """What is kept or removed as one: a run, a data set version, a model's version, a record."""

    name: str
    files: int = 0
    size_bytes: int = 0
    newest: float = 0.0
    """When its newest file was written, in Unix time by the clock of the store."""
    marks: set[str] = field(default_factory=set)
    """The files that tell what it is, below its name."""
    steps: set[str] = field(default_factory=set)
    """Of a run: the steps that left anything."""

    @property
    def is_finished(self) -> bool:
        """Whether each of a run's steps that left anything also ended."""
        return all(f"{step}/{ARTIFACTS_FILE}" in self.marks for step in self.steps)

    def add(self, entry: Entry) -> None:
        """Count one more file."""
        self.files += 1
        self.size_bytes += entry.size_bytes
        # A store that knows no time says 0; what may be new is never old enough.
        self.newest = max(self.newest, entry.modified or float("inf"))


@dataclass
class Foreign:
    """What lies where only our own should lie, and is never touched."""

    files: int = 0
    example: str = ""
    steps: dict[str, Unit] = field(default_factory=dict)
    """Folders with the records of a step, under names that no run of ours gives them."""

    def add(self, key: str, files: int = 1) -> None:
        """Count one more."""
        self.files += files
        self.example = self.example or key


def split_mark(key: str) -> tuple[str, str]:
    """Return the folder and the name of a file that tells what its folder is; else nothing."""
    match = _MARK.fullmatch(key)
    return (match["step"] or "", match["name"]) if match else ("", "")


def split_model(name: str) -> tuple[str, str]:
    """Return the model a unit below `models` belongs to, as `task/name/`, and what it is there."""
    task, model, kind = name.split("/")[:3]
    return f"{task}/{model}/", kind


class Area:
    """One of the three folders below the root."""

    def __init__(self, root_uri: str, name: str) -> None:
        self.name = name
        self.uri = join_uri(root_uri, name)
        self.storage = open_storage(self.uri)
        self._pattern = re.compile(_PATTERNS[name], re.DOTALL)
        self._reached_by_a_link = _link_check(self.storage.uri, self.storage)

    def units(self) -> tuple[dict[str, Unit], Foreign]:
        """Look through the whole area; memory grows with the units, not with their files."""
        units: dict[str, Unit] = {}
        foreign = Foreign()
        for entry in track(self.storage.list(), f"gc: looking through {self.name}"):
            name = self.unit_of(entry.key)
            if name is None or self._reached_by_a_link(entry.key):
                foreign.add(join_uri(self.name, entry.key))
                step, mark = split_mark(entry.key)
                if mark and self.name == "runs":
                    foreign.steps.setdefault(step, Unit(step)).marks.add(mark)
                continue
            unit = units.setdefault(name, Unit(name))
            unit.add(entry)
            below = entry.key[len(name) + 1 :]
            if split_mark(below)[1]:
                unit.marks.add(below)
            if self.name == "runs":
                unit.steps.add(below.partition("/")[0])
        return units, foreign

    def unit_of(self, key: str) -> str | None:
        """Return the name of the unit a key belongs to, or None if no run of ours wrote it."""
        match = self._pattern.fullmatch(key)
        if match is None or {"", ".", ".."} & set(key.split("/")):
            return None
        return next(name for name in match.groups() if name)

    def entries(self, name: str) -> Iterator[Entry]:
        """Yield what a unit holds now."""
        is_file = name.endswith(".json")
        for entry in self.storage.list(name if is_file else f"{name}/"):
            if self.unit_of(entry.key) == name and not self._reached_by_a_link(entry.key):
                yield entry

    def unfinished(self) -> Iterator[Entry]:
        """Yield the writes of ours that were begun and never ended."""
        for entry in self.storage.list_unfinished():
            if self.unit_of(entry.key) and not self._reached_by_a_link(entry.key):
                yield entry

    def delete(self, key: str) -> None:
        """Remove an object of ours; one that is not there is no error."""
        if not self._reached_by_a_link(key):
            self.storage.delete(key)

    def remove_empty_folders(self, name: str) -> None:
        """Remove the folders that a removed unit leaves behind; a bucket has none."""
        if not isinstance(self.storage, LocalStorage):
            return
        # Links are neither followed nor removed, and what has just gone is no error.
        for folder, _, _ in os.walk(self.storage.root / name, topdown=False):
            with contextlib.suppress(OSError):  # it holds something that is not ours
                Path(folder).rmdir()


def _link_check(uri: str, storage: object) -> Callable[[str], bool]:
    """Return a check for files that a link inside the area leads to: they belong to another."""
    if not isinstance(storage, LocalStorage):
        return lambda _: False
    top = Path(uri).resolve()
    known: dict[Path, bool] = {}

    def is_linked(key: str) -> bool:
        path = top / key
        folder = path.parent
        if folder not in known:
            known.clear()  # keys arrive folder by folder
            known[folder] = folder.resolve() != folder
        return known[folder] or path.is_symlink()

    return is_linked
