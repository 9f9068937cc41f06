"""Removal of what no champion, pointer or recent run needs; without `delete` only its list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from sightline.data.publish import MANIFEST_FILE
from sightline.data.shards import SHARDS_FOLDER
from sightline.errors import UserError
from sightline.gc.config import GcConfig, GcUris
from sightline.gc.layout import CHAMPION, Area, Unit, is_old, split_mark, split_model
from sightline.gc.needed import CONFIG_FILE, Needed, read_champions
from sightline.gc.survey import Doomed, Limits, Survey, look_through
from sightline.storage import join_uri
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.telemetry import announce, count, track

_LOOK_SECONDS = 30.0
"""How old a look may be, at least, before something is removed by it."""
_BATCH = 1000
"""Deletions in flight; the list of a run's files is never held whole."""


def run(uris: GcUris, config: GcConfig) -> dict[str, Any]:
    """List what nobody needs any more, with sizes and reasons, and remove it if `delete` is on.

    Returns:
        `removed`: one entry a run, version or record, and one for all shards, each with `name`,
        `files`, `size_bytes` and `reason`; `files` and `size_bytes` of all; `deleted`; `stays`.

    Raises:
        UserError: If the root holds nothing of ours, or a record that tells what is needed is
            damaged; then nothing is removed.
    """
    return Collection(uris, config, time.time()).collect()


@dataclass
class Collection:
    """One removal, seen from one moment: nothing gets old enough while it runs."""

    uris: GcUris
    config: GcConfig
    now: float
    removed: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.champions: dict[str, tuple[bytes, Needed]] = {}
        self.limits = Limits.before(self.now, self.config)
        self.areas = {
            name: Area(self.uris.root_uri, name) for name in ("datasets", "runs", "models")
        }

    def collect(self) -> dict[str, Any]:
        """List or remove everything, one area after the other."""
        try:
            return self._collect()
        except UserError as error:
            has_deleted = any(area.has_deleted for area in self.areas.values())
            done = "some is deleted already" if has_deleted else "nothing was deleted"
            raise UserError(f"{error}; {done}") from None

    def _collect(self) -> dict[str, Any]:
        first = self._look()
        if not first.is_ours:
            raise UserError(
                f"{self.uris.root_uri} holds no data sets, runs or champions of Sightline: give "
                "the folder that runs were given as out, which holds datasets/, runs/ and models/"
            )
        stays = (count(number, noun.removesuffix("s")) for noun, number in first.stays.items())
        announce("gc", f"needed: {', '.join(stays)}")
        for remove in (self._runs, self._models, self._datasets, self._shards):
            if self.config.delete and remove != self._runs:
                self._look()  # a champion may have moved, a run or a version arrived
            remove()
        for area in self.areas.values():
            self._unfinished(area)
        files = sum(entry["files"] for entry in self.removed)
        size_bytes = sum(entry["size_bytes"] for entry in self.removed)
        for foreign in first.foreign.values():
            if foreign.files:
                what = count(foreign.files, "file")
                announce("gc", f"left alone: {what} of unknown use, such as {foreign.example}")
        total = f"{show_size(size_bytes)} in {count(files, 'file')}"
        if self.config.delete:
            announce("gc", f"removed {total}")
        else:
            announce("gc", f"{total} can go; this was a dry run, --delete removes them")
        return {
            "deleted": self.config.delete,
            "files": files,
            "size_bytes": size_bytes,
            "removed": self.removed,
            "stays": first.stays,
        }

    def _look(self) -> Survey:
        began = time.monotonic()
        self.survey = look_through(self.areas, self.limits, self.config.keep_runs)
        now = time.monotonic()
        self.look_again = now + max(_LOOK_SECONDS, now - began)
        return self.survey

    def _is_time_to_look(self) -> bool:
        return self.config.delete and time.monotonic() >= self.look_again

    def _doomed(self, kind: str) -> Iterator[Doomed]:
        """Yield the units of a kind that are to go; where that takes long, look again meanwhile."""
        survey = self.survey
        names = None
        for doomed in getattr(survey, kind):
            if self._is_time_to_look():
                names = {still.unit.name for still in getattr(self._look(), kind)}
            if names is None or doomed.unit.name in names:
                yield doomed

    def _runs(self) -> None:
        area = self.areas["runs"]
        for doomed in self._doomed("runs"):
            # A step without artifacts.json is no result; config.json tells to the last that the
            # rest is ours.
            self._unit(
                area,
                doomed,
                self.limits.finished,
                first=_marks(doomed.unit, ARTIFACTS_FILE),
                last=_marks(doomed.unit, CONFIG_FILE),
            )

    def _models(self) -> None:
        area = self.areas["models"]
        for doomed in self._doomed("models"):
            place, _ = split_model(doomed.unit.name)
            if self.config.delete and doomed.unit.name in self._champions_now(place).models:
                continue
            self._unit(area, doomed, self.limits.finished, first=[ARTIFACTS_FILE])

    def _champions_now(self, place: str) -> Needed:
        """Return what the champions of a model need at this moment."""
        area, key = self.areas["models"], f"{place}{CHAMPION}"
        content = area.storage.read_bytes(key)
        if self.champions.get(place, (b"",))[0] != content:
            self.champions[place] = content, read_champions(area, [key])
        return self.champions[place][1]

    def _datasets(self) -> None:
        area = self.areas["datasets"]
        for doomed in self._doomed("datasets"):
            is_version = MANIFEST_FILE in doomed.unit.marks
            limit = self.limits.finished if is_version else self.limits.grace
            self._unit(area, doomed, limit, first=[MANIFEST_FILE])

    def _unit(
        self,
        area: Area,
        doomed: Doomed,
        limit: float,
        first: Iterable[str] = (),
        last: Iterable[str] = (),
    ) -> None:
        """Remove one unit unless it was written to meanwhile; list it."""
        name = doomed.unit.name
        if self.config.delete:
            present = Unit(name)
            for entry in area.entries(name):
                present.add(entry)
            if present.newest > limit:
                return
            kept_back = {f"{name}/{key}" for key in last}
            for key in first:
                area.delete_old(f"{name}/{key}", limit)
            # What was written since is another's: a prepare that makes the same version again.
            old = (entry.key for entry in area.entries(name) if is_old(entry, limit))
            rest = (key for key in old if key not in kept_back)
            _delete_all(area.storage.parallel_requests, area.delete, rest)
            for key in kept_back:
                area.delete_old(key, limit)
            area.remove_empty_folders(name)
        self._list(join_uri(area.name, name), doomed.unit, doomed.reason)

    def _shards(self) -> None:
        area = self.areas["datasets"]
        unit = Unit(SHARDS_FOLDER)

        def doomed() -> Iterator[str]:
            for entry in track(area.entries(SHARDS_FOLDER), "gc: shards"):
                if self._is_time_to_look():
                    self._look()
                if is_old(entry, self.limits.grace) and not self.survey.names_shard(entry.key):
                    unit.add(entry)
                    yield entry.key

        if self.config.delete:
            delete = partial(area.delete_old, limit=self.limits.grace)
            _delete_all(area.storage.parallel_requests, delete, doomed())
        else:
            for _ in doomed():
                pass
        if unit.files:
            reason = "no data set version that stays names these shards"
            self._list(join_uri(area.name, SHARDS_FOLDER), unit, reason)

    def _unfinished(self, area: Area) -> None:
        unit = Unit(area.name)
        for entry in area.unfinished():
            if is_old(entry, self.limits.grace):
                unit.add(entry)
                if self.config.delete:
                    area.storage.delete_unfinished(entry)
                    area.has_deleted = True
        if unit.files:
            self._list(area.name, unit, "writes that were begun and never ended")

    def _list(self, name: str, unit: Unit, reason: str) -> None:
        size = f"{show_size(unit.size_bytes)} in {count(unit.files, 'file')}"
        announce("gc", f"{name}: {size}; {reason}")
        self.removed.append(
            {
                "name": name,
                "files": unit.files,
                "size_bytes": unit.size_bytes,
                "reason": reason,
            }
        )


def _delete_all(at_once: int, delete: Callable[[str], None], keys: Iterable[str]) -> None:
    """Delete objects, as many at once as the store likes, in bounded memory."""
    remaining = iter(keys)
    with ThreadPoolExecutor(at_once) as pool:
        while batch := list(islice(remaining, _BATCH)):
            list(pool.map(delete, batch))


def show_size(size_bytes: int) -> str:
    """Return a size as people say it: `512 bytes`, `1.5 MiB`."""
    if size_bytes < 1024:
        return count(size_bytes, "byte")
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024 or unit == "TiB":
            break
    return f"{size:.1f} {unit}"


def _marks(unit: Unit, name: str) -> list[str]:
    return sorted(mark for mark in unit.marks if split_mark(mark)[1] == name)
