"""How a step's results become visible: every file first, `artifacts.json` last.

A folder without `artifacts.json` holds no result. The list carries each file's size and
sha256, and readers check them, so a torn or altered file is never taken for a result.

No file is ever written over: where another run of the step, killed or still going, left other
bytes under a name, ours are stored beside them, and the list says under which `key`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sightline import __version__
from sightline.config import StepConfig, StepUris
from sightline.errors import UserError
from sightline.storage.base import NotFoundError, Storage, join_uri, open_storage
from sightline.storage.local import LocalStorage
from sightline.storage.scratch import ScratchFolder, scratch_until_exit
from sightline.storage.verified import AlteredError, read_verified, refuse_altered

ARTIFACTS_FILE = "artifacts.json"
_FILES_AT_ONCE = 8


def require_new(out_uri: str) -> None:
    """Refuse an output address that holds a finished result already, or cannot be written to.

    Raises:
        UserError: If so; results are written once and never overwritten.
    """
    storage = open_storage(out_uri)
    if storage.exists(ARTIFACTS_FILE):
        raise UserError(
            f"{out_uri} already holds a finished result, and results are never overwritten: "
            "choose another out_uri, or delete that folder"
        )
    storage.require_writable()


@contextmanager
def new_artifacts(step: str, uris: StepUris, config: StepConfig, out_uri: str) -> Iterator[Path]:
    """Give a step a scratch folder and publish it whole when the step has succeeded.

    `config.json` is written for the step. If the step raises, nothing is published.

    Yields:
        An empty local folder; every file in it is published under its relative path.

    Raises:
        UserError: If `out_uri` holds a finished result already, or cannot be written to.
    """
    require_new(out_uri)
    with ScratchFolder(step) as scratch:
        folder = scratch / "result"  # not among the files of the scratch folder's own
        folder.mkdir()
        yield folder
        described = {
            "step": step,
            "settings": config.to_json(),
            "uris": uris.to_json(),
            "versions": {"sightline": __version__, "python": platform.python_version()},
        }
        write_json(folder / "config.json", described)
        _publish(folder, out_uri)


def publish_skipped(
    step: str, uris: StepUris, config: StepConfig, out_uri: str, reason: str
) -> dict[str, str]:
    """Publish that a step had no data to work on, and return what `metrics.json` holds."""
    metrics = {"skipped": reason}
    with new_artifacts(step, uris, config, out_uri) as folder:
        write_json(folder / "metrics.json", metrics)
    return metrics


def fetch_artifacts(uri: str, names: Iterable[str] | None = None) -> Path:
    """Return a local folder that holds a finished step's files, verified.

    What lies in a bucket is fetched once into a folder of this process, which goes when it ends.

    Args:
        uri: The address a step wrote to.
        names: The files that are needed; None means all.

    Raises:
        NotFoundError: If no step has finished there, or it left no such file.
        UserError: If a file's size or sha256 is not what was published.
    """
    storage = open_storage(uri)

    def read() -> tuple[bytes, dict[str, dict[str, Any]]]:
        content = storage.read_bytes(ARTIFACTS_FILE)
        return content, _read_list(content, uri)

    try:
        manifest, listed = read_verified(join_uri(uri, ARTIFACTS_FILE), read)
    except NotFoundError:
        raise NotFoundError(
            f"no finished result under {uri}: the step that writes it has not ended there"
        ) from None
    wanted = list(listed if names is None else names)
    for name in wanted:
        if name not in listed:
            raise NotFoundError(f"{uri} has no {name}; it holds {', '.join(sorted(listed))}")
    is_plain = all(key_of(listed, name) == name for name in wanted)
    if not (isinstance(storage, LocalStorage) and is_plain):
        return _FETCHED.fetch(storage, manifest, {name: listed[name] for name in wanted})
    for name in wanted:
        path = storage.root / name
        if not path.is_file():
            raise UserError(f"{join_uri(uri, name)} is gone although its step published it")
        _require_unaltered(path, listed[name], join_uri(uri, name))
    return storage.root


def key_of(listed: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return where a file of a result is stored, by the list in its `artifacts.json`."""
    return str(listed.get(name, {}).get("key", name))


def read_json(path: Path) -> Any:
    """Read a JSON file of ours."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people read too; refuses NaN, which is no JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(folder: Path, out_uri: str) -> None:
    storage = open_storage(out_uri)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    described = {name: _describe(path) for name, path in files.items()}
    # Asked again: a step takes hours, and a result may have come meanwhile.
    if not storage.exists(ARTIFACTS_FILE):
        with ThreadPoolExecutor(min(_FILES_AT_ONCE, storage.parallel_requests)) as pool:
            entries = pool.map(
                lambda name: _store(storage, files[name], name, described[name]), files
            )
            listed = dict(zip(files, entries, strict=True))
        manifest = json.dumps({"files": listed}, indent=2).encode()
        if storage.write_if_unchanged(ARTIFACTS_FILE, manifest, expected=None):
            return
    present = _read_list(storage.read_bytes(ARTIFACTS_FILE), out_uri)
    if {name: _content_of(entry) for name, entry in present.items()} != described:
        raise UserError(f"{out_uri} received a finished result from another run meanwhile")


def _store(storage: Storage, path: Path, name: str, described: dict[str, Any]) -> dict[str, Any]:
    """Store a file under its name, or beside what has that name, and return its entry."""
    place = PurePosixPath(name)
    beside = str(place.with_name(f"{place.stem}.{described['sha256'][:12]}{place.suffix}"))
    for key in (name, beside):
        if storage.upload(path, key, only_new=True) or _holds(storage, key, described):
            return described if key == name else {**described, "key": key}
    raise UserError(
        f"{join_uri(storage.uri, beside)} holds bytes that no step wrote: choose another out_uri, "
        "or delete that folder"
    )


def _holds(storage: Storage, key: str, described: dict[str, Any]) -> bool:
    with ScratchFolder("stored") as scratch:
        stored = scratch / "stored"
        try:
            storage.download(key, stored)
        except NotFoundError:  # a folder has that name, or it has just been removed
            return False
        return _describe(stored) == described


def _describe(path: Path) -> dict[str, Any]:
    return {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _content_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry says of the bytes, wherever they are stored."""
    return {name: value for name, value in entry.items() if name != "key"}


def _read_list(manifest: bytes, uri: str) -> dict[str, dict[str, Any]]:
    try:
        listed = json.loads(manifest)["files"]
        for name, described in listed.items():
            if set(described) - {"key"} != {"size_bytes", "sha256"}:
                raise ValueError(name)
            if not (_is_plain(name) and _is_plain(described.get("key", name))):
                raise ValueError(name)
    except (ValueError, TypeError, KeyError, AttributeError):
        list_uri = join_uri(uri, ARTIFACTS_FILE)
        message = f"{list_uri} is not as a step writes it: run its step again"
        raise AlteredError(message, list_uri) from None
    return dict(listed)


def _is_plain(name: str) -> bool:
    """Say whether a name may become a path below a folder of ours."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _require_unaltered(path: Path, expected: dict[str, Any], uri: str) -> None:
    refuse_altered(uri, str(expected["sha256"]), sha256_of(path), "run its step again")


class _Fetched:
    """The files of results in buckets that this process has fetched and verified."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked process must: the lock may be held by a thread it lacks."""
        self._lock = threading.Lock()
        self._root: Path | None = None

    def fetch(
        self, storage: Storage, manifest: bytes, wanted: Mapping[str, dict[str, Any]]
    ) -> Path:
        with self._lock:
            if self._root is None:
                self._root = scratch_until_exit("fetched")
            result = hashlib.sha256(storage.uri.encode() + b"\0" + manifest).hexdigest()
            folder = self._root / result
            for name, expected in wanted.items():
                # What is in the folder was verified before it came there.
                if not (folder / name).is_file():
                    self._fetch_file(storage, name, expected, folder / name)
            return folder

    def _fetch_file(
        self, storage: Storage, name: str, expected: dict[str, Any], path: Path
    ) -> None:
        key = expected.get("key", name)
        uri = join_uri(storage.uri, key)
        with tempfile.TemporaryDirectory(dir=self._root) as scratch:
            arrived = Path(scratch, "arrived")

            def fetch() -> None:
                storage.download(key, arrived)
                _require_unaltered(arrived, expected, uri)

            try:
                read_verified(uri, fetch)
            except NotFoundError:
                raise UserError(f"{uri} is gone although its step published it") from None
            path.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(path)


_FETCHED = _Fetched()
os.register_at_fork(after_in_child=_FETCHED.forget)
