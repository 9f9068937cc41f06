"""One look through the whole root: what stays, and what nobody needs any more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sightline.data.publish import FORMAT_VERSION, MANIFEST_FILE, manifest_digest
from sightline.data.shards import SHARDS_FOLDER
from sightline.errors import UserError
from sightline.gc.config import GcConfig
from sightline.gc.layout import CHAMPION, HISTORY, Area, Foreign, Unit, split_model
from sightline.gc.links import refuse_links
from sightline.gc.needed import (
    Needed,
    add_recent_history,
    is_run,
    read_champions,
    read_run,
)
from sightline.storage import NotFoundError, join_uri

R = TypeVar("R")

_SHARD = re.compile(rf"{SHARDS_FOLDER}/([0-9a-f]{{64}})\.tar")
_OLD_SHARD = re.compile(r"shard-[0-9]{5,}\.tar")
_READERS = 8  # a manifest may have some megabytes, so not as many at once as the store allows


@dataclass(frozen=True)
class Limits:
    """The moments, in Unix time, before which something must lie to be removed."""

    finished: float
    """For runs, data set versions and models: what is younger is recent."""
    grace: float
    """For everything: what is younger may still be under way."""

    @classmethod
    def before(cls, now: float, config: GcConfig) -> Limits:
        """Return the limits as seen at a moment."""
        grace = now - 3600 * config.grace_hours
        return cls(min(grace, now - 86400 * config.keep_days), grace)


@dataclass(frozen=True)
class Doomed:
    """A unit that goes, and why."""

    unit: Unit
    reason: str


@dataclass(frozen=True)
class Survey:
    """What one look found."""

    runs: tuple[Doomed, ...]
    models: tuple[Doomed, ...]
    """History records first: none may name a version that is gone."""
    datasets: tuple[Doomed, ...]
    named_shards: frozenset[bytes]
    """The sha256 of every shard that a version which stays names."""
    stays: dict[str, int]
    """How many champions, predecessors, runs and data set versions stay."""
    foreign: dict[str, Foreign]
    """What is not ours, by area."""
    is_ours: bool
    """Whether anything of ours lies there at all."""

    def names_shard(self, key: str) -> bool:
        """Say whether a version that stays names this shard."""
        match = _SHARD.fullmatch(key)
        return match is None or bytes.fromhex(match[1]) in self.named_shards


def look_through(areas: dict[str, Area], limits: Limits, keep_runs: int) -> Survey:
    """Read every pointer below the root and decide.

    Raises:
        UserError: If a record that says what is needed is damaged, or a link lies there.
    """
    refuse_links(area.storage for area in areas.values())
    found = {name: area.units() for name, area in areas.items()}
    units = {name: pair[0] for name, pair in found.items()}
    foreign = {name: pair[1] for name, pair in found.items()}
    runs = _own_runs(areas["runs"], units["runs"], foreign["runs"])
    models = [*units["models"], *foreign["models"].read]
    champions = {place for place, kind in map(split_model, models) if kind == CHAMPION}
    needed = read_champions(areas["models"], models)
    # One that was killed must not push out one that has results; its age alone protects it.
    finished = (name for name, unit in runs.items() if unit.is_finished)
    needed.runs |= set(sorted(finished, key=lambda n: runs[n].newest, reverse=True)[:keep_runs])
    needed.runs |= {name for name, unit in runs.items() if unit.newest > limits.finished}
    add_recent_history(needed, areas["models"], units["models"], limits.finished)
    steps = _own_steps(areas["runs"], foreign["runs"])
    _follow_runs(areas["runs"], runs, steps, needed)
    datasets = {name: unit for name, unit in units["datasets"].items() if name != SHARDS_FOLDER}
    doomed_datasets = _doomed_datasets(datasets, needed, limits)
    gone = {doomed.unit.name for doomed in doomed_datasets}
    versions = [unit for unit in datasets.values() if MANIFEST_FILE in unit.marks]
    named = _named_shards(areas["datasets"], versions, gone)
    return Survey(
        runs=tuple(
            Doomed(unit, "its newest file is not recent, and nothing that stays names it")
            for name, unit in sorted(runs.items())
            if name not in needed.runs and unit.newest <= limits.finished
        ),
        models=_doomed_models(units["models"], champions, foreign["models"], needed, limits),
        datasets=doomed_datasets,
        named_shards=named,
        stays={
            "champions": len(champions),
            "predecessors": sum(split_model(name)[1] == HISTORY for name in needed.models),
            "runs": sum(name in needed.runs for name in runs),
            "data set versions": sum(unit.name not in gone for unit in versions),
        },
        foreign=foreign,
        is_ours=bool(runs or steps or units["datasets"] or champions),
    )


def _own_runs(area: Area, units: dict[str, Unit], foreign: Foreign) -> dict[str, Unit]:
    runs = {}
    for unit, is_ours in _at_once(area, lambda unit: is_run(area, unit), units.values()):
        if is_ours:
            runs[unit.name] = unit
        else:
            foreign.add(join_uri(area.name, unit.name), unit.files)
    return runs


def _own_steps(area: Area, foreign: Foreign) -> list[Unit]:
    """Return what is not ours to remove: what it names stays as long as it does."""
    found = _at_once(area, lambda unit: is_run(area, unit), foreign.read.values())
    return [unit for unit, is_ours in found if is_ours]


def _follow_runs(area: Area, runs: dict[str, Unit], steps: list[Unit], needed: Needed) -> None:
    """Keep what these steps and the kept runs name: data sets, and runs whose results they use."""
    done: set[str] = set()

    def kept() -> list[Unit]:
        new = sorted(needed.runs & runs.keys() - done)
        done.update(new)
        return [runs[name] for name in new]

    follow = [*steps, *kept()]
    while follow:
        for _, addresses in _at_once(area, lambda unit: read_run(area, unit), follow):
            for address in addresses:
                needed.add_address(address)
        follow = kept()


def _doomed_datasets(units: dict[str, Unit], needed: Needed, limits: Limits) -> tuple[Doomed, ...]:
    doomed = []
    for name, unit in sorted(units.items()):
        if MANIFEST_FILE not in unit.marks:
            if unit.newest <= limits.grace:
                doomed.append(Doomed(unit, "it has no manifest: its prepare or its gc was stopped"))
        elif name not in needed.datasets and unit.newest <= limits.finished:
            doomed.append(Doomed(unit, "no champion and no kept run names it"))
    return tuple(doomed)


def _doomed_models(
    units: dict[str, Unit], champions: set[str], foreign: Foreign, needed: Needed, limits: Limits
) -> tuple[Doomed, ...]:
    records, versions = [], []
    for name, unit in sorted(units.items()):
        place, kind = split_model(name)
        if name in needed.models:
            continue
        if place not in champions:
            # Perhaps the first promotion is under way, or somebody moved champion.json away.
            foreign.add(join_uri("models", name), unit.files)
        elif unit.newest <= limits.finished and kind == HISTORY:
            records.append(Doomed(unit, "no champion leads back to it"))
        elif unit.newest <= limits.finished:
            versions.append(Doomed(unit, "it is no champion's and no predecessor's"))
    return (*records, *versions)


def _named_shards(area: Area, versions: Iterable[Unit], gone: set[str]) -> frozenset[bytes]:
    named: set[bytes] = set()
    for unit, names in _at_once(area, lambda unit: _read_manifest(area, unit), versions):
        if unit.name not in gone:
            named |= names
    return frozenset(named)


def _read_manifest(area: Area, unit: Unit) -> set[bytes]:
    """Return the sha256 of every shared shard that a version names."""
    key = f"{unit.name}/{MANIFEST_FILE}"
    try:
        manifest = json.loads(area.storage.read_bytes(key))
        if manifest["format_version"] not in range(1, FORMAT_VERSION + 1):
            raise ValueError(f"format {manifest['format_version']!r}")
        if not manifest_digest(manifest).startswith(unit.name):
            raise ValueError("it was altered")
        digests = map(_shard_digest, manifest["shards"])
        return {digest for digest in digests if digest}
    except NotFoundError:
        return set()  # another gc has just removed it
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{join_uri(area.uri, key)} is no manifest that this version of Sightline "
            f"understands ({error!r}), so nobody knows which shards it needs: restore it, or "
            "remove that folder"
        ) from None


def _shard_digest(shard: Any) -> bytes | None:
    name = str(shard["name"])
    shared = _SHARD.fullmatch(name)
    if shared:
        return bytes.fromhex(shared[1])
    if _OLD_SHARD.fullmatch(name):
        return None
    raise ValueError(f"a shard is named {name!r}")


def _at_once(
    area: Area, function: Callable[[Unit], R], units: Iterable[Unit]
) -> Iterable[tuple[Unit, R]]:
    """Read the records of many units, some at once."""
    listed = list(units)
    with ThreadPoolExecutor(min(_READERS, area.storage.parallel_requests)) as pool:
        yield from zip(listed, pool.map(function, listed), strict=True)
