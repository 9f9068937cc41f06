"""What must stay: champions, their predecessors, and what they and the recent runs name."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.gc.layout import (
    CHAMPION,
    HISTORY,
    STEPS,
    Area,
    Unit,
    split_mark,
    split_model,
)
from sightline.promote.champion import Champion, ChampionStore
from sightline.storage import NotFoundError, join_uri
from sightline.storage.artifacts import ARTIFACTS_FILE, key_of
from sightline.storage.begun import BEGUN_FILE

CONFIG_FILE = "config.json"

_BEGUN = re.compile(BEGUN_FILE)

_DIGEST = re.compile(r"[0-9a-f]{16}")
# Each is found wherever it begins, for a root may be named as one of its folders.
_RUN = re.compile(rf"(?=(?:^|/)(?:runs/+([^/]+)|([^/]+)/+(?:{'|'.join(STEPS)})(?:/|$)))")
_MODEL_VERSION = re.compile(r"(?=(?:^|/)models/+([^/]+)/+([^/]+)/+versions/+([^/]+))")


@dataclass
class Needed:
    """Names of units that stay."""

    models: set[str] = field(default_factory=set)
    """Champions', predecessors' and kept runs' versions, history records and champion.json."""
    datasets: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)

    def add_address(self, address: str) -> None:
        """Keep whatever an address may name.

        Data sets are named by their content and runs by their time, so a name alone tells: it does
        not matter through which mount or relative path a step saw its root. Where it was a link
        of this machine, what that leads to is kept.
        """
        local = address.removeprefix("file://")
        seen = {local}
        if "://" not in local:
            with contextlib.suppress(ValueError, RuntimeError):  # no path, or of no user's home
                seen.add(os.path.realpath(Path(local).expanduser()))
        for path in seen:
            self.datasets.update(part for part in path.split("/") if _DIGEST.fullmatch(part))
            self.runs.update(name for found in _RUN.findall(path) for name in found if name)
            for task, name, version in _MODEL_VERSION.findall(path):
                self.models.add(f"{task}/{name}/versions/{version}")

    def add_champion(self, place: str, champion: Champion) -> None:
        """Keep a champion's version, the record before it, and what proves its numbers.

        Raises:
            UserError: If its version is no folder's name.
        """
        if "/" in champion.version:
            raise UserError(
                f"a record of models/{place} is of version {champion.version!r}, which is no "
                "folder's name"
            )
        record = champion.record
        self.models.add(f"{place}versions/{champion.version}")
        if record.get("previous"):
            self.models.add(f"{place}{record['previous']['record']}")
        self.add_address(str(record.get("dataset_digest", ""))[:16])
        for address in ("dataset_uri", "source_uri", "report_uri"):
            self.add_address(str(record.get(address) or ""))


def read_champions(models: Area, units: Iterable[str]) -> Needed:
    """Return what every champion needs, down to the first predecessor.

    Raises:
        UserError: If a record is damaged, or a model folder has a history and no champion.
    """
    needed = Needed()
    found = {split_model(name) for name in units}
    for place, kind in sorted(found):
        if kind == HISTORY and (place, CHAMPION) not in found:
            raise UserError(
                f"{join_uri(models.uri, place, CHAMPION)} is gone although its history is there: "
                f"restore it from {join_uri(models.uri, place, HISTORY)}, or remove the whole "
                "folder"
            )
        if kind == CHAMPION:
            _add_champion(needed, models.uri, place)
    return needed


def _add_champion(needed: Needed, models_uri: str, place: str) -> None:
    task, _, name = place.strip("/").rpartition("/")
    needed.models.add(f"{place}{CHAMPION}")
    for champion in list(_chain(ChampionStore(models_uri, task, name))):  # whole before any use
        needed.add_champion(place, champion)


def add_recent_history(
    needed: Needed, models: Area, units: Mapping[str, Unit], limit: float
) -> None:
    """Keep what records name that gave way lately, as in a rollback that may be regretted.

    Raises:
        UserError: If one is damaged.
    """
    for name, unit in units.items():
        place, kind = split_model(name)
        if kind != HISTORY or unit.newest <= limit or name in needed.models:
            continue
        task, model = place.strip("/").split("/")
        with contextlib.suppress(NotFoundError):  # another gc has just removed it
            record = ChampionStore(models.uri, task, model).read_history(name.removeprefix(place))
            needed.add_champion(place, record)


def _chain(store: ChampionStore) -> Iterator[Champion]:
    champion = store.read()
    if champion is None:
        raise UserError(f"{join_uri(store.uri, CHAMPION)} has just been removed: look, then retry")
    while champion is not None:
        yield champion
        champion = store.read_predecessor(champion)


def is_run(runs: Area, unit: Unit) -> bool:
    """Say whether a folder was written by steps of ours, judged by what it says of itself.

    Raises:
        UserError: If a list of artifacts under a step's name is damaged.
    """
    return any(_is_step(runs, unit, step) for step in _steps(unit))


def _steps(unit: Unit) -> list[str]:
    return sorted({split_mark(mark)[0] for mark in unit.marks})


def _is_step(runs: Area, unit: Unit, step: str) -> bool:
    if _begun(unit, step):
        return True
    mark = posixpath.join(step, ARTIFACTS_FILE)
    if mark in unit.marks:
        files = (_read(runs, unit, mark, strict=step in STEPS) or {}).get("files")
        if _is_list_of_ours(files) or (step in STEPS and files is not None):
            return True
    # The settings alone are left where a removal was interrupted.
    mark = posixpath.join(step, CONFIG_FILE)
    record = _read(runs, unit, mark, strict=False) if mark in unit.marks else None
    return (record or {}).get("step") in STEPS


def _is_list_of_ours(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and {"size_bytes", "sha256"} <= entry.keys()
        for entry in (files.get(CONFIG_FILE), *files.values())
    )


def _begun(unit: Unit, step: str) -> list[str]:
    """Return what tries of a step left that have not ended."""
    split = {mark: split_mark(mark) for mark in unit.marks}
    return sorted(
        mark for mark, (at, name) in split.items() if at == step and _BEGUN.fullmatch(name)
    )


def read_run(runs: Area, unit: Unit) -> list[str]:
    """Return every address that a run's steps read, wrote or handed on.

    Raises:
        UserError: If a finished step's record is damaged: what it needs cannot be known.
    """
    addresses: list[str] = []
    for step in _steps(unit):
        if step not in STEPS and not _is_step(runs, unit, step):
            continue
        strict = posixpath.join(step, ARTIFACTS_FILE) in unit.marks
        listed = _read_listed(runs, unit, step) if strict else {}
        config = _read(runs, unit, posixpath.join(step, key_of(listed, CONFIG_FILE)), strict)
        wanted = [(CONFIG_FILE, "uris")]
        if (config or {}).get("step", posixpath.basename(step)) == "prepare":
            wanted.append(("metrics.json", "datasets"))
        for name, key in wanted:
            mark = posixpath.join(step, key_of(listed, name))
            content = config if name == CONFIG_FILE else _read(runs, unit, mark, strict)
            values = (content or {}).get(key)
            if isinstance(values, dict):
                addresses += _texts(values)
            elif strict and content is not None:
                raise _damaged(runs, unit, mark)
        for mark in _begun(unit, step):
            addresses += _texts(_read_begun(runs, unit, mark))
    return addresses


def _texts(values: Any) -> Iterator[str]:
    """Yield every text in a value of JSON, however deep."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)


def _read_begun(runs: Area, unit: Unit, mark: str) -> dict[str, Any]:
    """Return the addresses that a step was given; none if it has just ended."""
    try:
        given = (_load(runs, unit, mark) or {}).get("uris")
    except NotFoundError:
        return {}
    if not isinstance(given, dict):
        raise _damaged(runs, unit, mark)
    return given


def _read_listed(runs: Area, unit: Unit, step: str) -> dict[str, dict[str, Any]]:
    """Return what a finished step's list says of its files; nothing if it is gone meanwhile."""
    mark = posixpath.join(step, ARTIFACTS_FILE)
    listed = (_read(runs, unit, mark, strict=True) or {"files": {}}).get("files")
    if not (isinstance(listed, dict) and all(isinstance(entry, dict) for entry in listed.values())):
        raise _damaged(runs, unit, mark)
    return listed


def _read(runs: Area, unit: Unit, mark: str, strict: bool) -> dict[str, Any] | None:
    """Return a record, or None if it is gone or, unless `strict`, no record of ours."""
    try:
        content = _load(runs, unit, mark)
    except NotFoundError:
        finished = posixpath.join(unit.name, posixpath.dirname(mark), ARTIFACTS_FILE)
        if strict and runs.storage.exists(finished):
            raise _damaged(runs, unit, mark) from None
        return None  # not written yet, or another gc has just removed it
    if content is None and strict:
        raise _damaged(runs, unit, mark)
    return content


def _load(runs: Area, unit: Unit, mark: str) -> dict[str, Any] | None:
    """Return a record that is there; None if it is no record of ours."""
    content = runs.storage.read_bytes(posixpath.join(unit.name, mark))
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _damaged(runs: Area, unit: Unit, mark: str) -> UserError:
    return UserError(
        f"{join_uri(runs.uri, unit.name, mark)} is gone or damaged, so nobody knows which data "
        f"sets the run {unit.name} needs: restore it, or remove that run's folder"
    )
