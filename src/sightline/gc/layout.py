"""The names that runs write below their root, and what lies under them: all else is left alone."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sightline.data.shards import SHARDS_FOLDER
from sightline.storage import Entry, join_uri, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.begun import BEGUN_FILE
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
_MARK = re.compile(
    rf"(?:(?P<step>.+)/)?(?P<name>(?:manifest|artifacts|config|metrics)\.json|{BEGUN_FILE})",
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
        marked = {split_mark(mark)[0] for mark in self.marks}
        ended = {step for step in marked if posixpath.join(step, ARTIFACTS_FILE) in self.marks}
        # What lies below a result is a part of it; and what has results below it, told to be
        # written there under names of the user's own, is a folder of steps.
        steps = marked | {step for step in self.steps if not _any_below(step, marked)}
        return all(_any_above(step, ended) for step in steps)

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
    read: dict[str, Unit] = field(default_factory=dict)
    """What is read all the same: steps, and champions, in folders of the user's own."""

    def add(self, key: str, files: int = 1) -> None:
        """Count one more."""
        self.files += files
        self.example = self.example or key


def _any_above(step: str, folders: set[str]) -> bool:
    """Say whether a folder is one of these or lies below one."""
    return any(step == folder or step.startswith(f"{folder}/") for folder in folders)


def _any_below(step: str, folders: set[str]) -> bool:
    return any(folder.startswith(f"{step}/") for folder in folders)


def is_old(entry: Entry, limit: float) -> bool:
    """Say whether an object was written before a moment; one of unknown age was not."""
    return 0 < entry.modified <= limit


def split_mark(key: str) -> tuple[str, str]:
    """Return the folder and the name of a file that tells what its folder is; else nothing."""
    match = _MARK.fullmatch(key)
    return (match["step"] or "", match["name"]) if match else ("", "")


def split_model(name: str) -> tuple[str, str]:
    """Return the model a unit below `models` belongs to, as `task/name/`, and what it is there."""
    if name.endswith(f"/{CHAMPION}"):
        return name.removesuffix(CHAMPION), CHAMPION
    task, model, kind = name.split("/")[:3]
    return f"{task}/{model}/", kind


class Area:
    """One of the three folders below the root."""

    def __init__(self, root_uri: str, name: str) -> None:
        self.name = name
        self.uri = join_uri(root_uri, name)
        self.storage = open_storage(self.uri)
        self._pattern = re.compile(_PATTERNS[name], re.DOTALL)
        self.has_deleted = False

    def units(self) -> tuple[dict[str, Unit], Foreign]:
        """Look through the whole area; memory grows with the units, not with their files."""
        units: dict[str, Unit] = {}
        foreign = Foreign()
        for entry in track(self.storage.list(), f"gc: looking through {self.name}"):
            name = self.unit_of(entry.key)
            if name is None:
                foreign.add(join_uri(self.name, entry.key))
                step, mark = split_mark(entry.key)
                if mark and self.name == "runs":
                    foreign.read.setdefault(step, Unit(step)).marks.add(mark)
                is_champion = posixpath.basename(entry.key) == CHAMPION
                if self.name == "models" and is_champion and entry.key.count("/") >= 2:
                    foreign.read[entry.key] = Unit(entry.key)
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
            if self.unit_of(entry.key) == name:
                yield entry

    def unfinished(self) -> Iterator[Entry]:
        """Yield the writes of ours that were begun and never ended."""
        for entry in self.storage.list_unfinished():
            if self.unit_of(entry.key):
                yield entry

    def delete(self, key: str) -> None:
        """Remove an object of ours; one that is not there is no error."""
        self.storage.delete(key)
        self.has_deleted = True

    def delete_old(self, key: str, limit: float) -> None:
        """Remove an object of ours unless it has been written again since it was listed."""
        present = self.storage.find(key)
        if present and is_old(present, limit):
            self.delete(key)

    def remove_empty_folders(self, name: str) -> None:
        """Remove the folders that a removed unit leaves behind; a bucket has none."""
        if not isinstance(self.storage, LocalStorage):
            return
        # Links are neither followed nor removed, and what has just gone is no error.
        for folder, _, _ in os.walk(self.storage.root / name, topdown=False):
            with contextlib.suppress(OSError):  # it holds something that is not ours
                Path(folder).rmdir()
