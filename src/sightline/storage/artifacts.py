"""How a step's results become visible: every file first, `artifacts.json` last.

A folder without `artifacts.json` holds no result. The list carries each file's size and
sha256, and readers check them, so a torn or altered file is never taken for a result.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline import __version__
from sightline.config import StepConfig, StepUris, UserError
from sightline.storage.base import NotFoundError, join_uri, open_storage
from sightline.storage.local import LocalStorage

ARTIFACTS_FILE = "artifacts.json"


def require_new(out_uri: str) -> None:
    """Refuse an output address that already holds a finished result.

    Raises:
        UserError: If it does; results are written once and never overwritten.
    """
    if open_storage(out_uri).exists(ARTIFACTS_FILE):
        raise UserError(
            f"{out_uri} already holds a finished result, and results are never overwritten: "
            "choose another out_uri, or delete that folder"
        )


@contextmanager
def new_artifacts(step: str, uris: StepUris, config: StepConfig, out_uri: str) -> Iterator[Path]:
    """Give a step a scratch folder and publish it whole when the step has succeeded.

    `config.json` is written for the step. If the step raises, nothing is published.

    Yields:
        An empty local folder; every file in it is published under its relative path.

    Raises:
        UserError: If `out_uri` already holds a finished result.
    """
    require_new(out_uri)
    with tempfile.TemporaryDirectory(prefix=f"sightline-{step}-") as scratch:
        folder = Path(scratch)
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

    Args:
        uri: The address a step wrote to.
        names: The files that are needed; None means all.

    Raises:
        NotFoundError: If no step has finished there, or it left no such file.
        UserError: If a file's size or sha256 is not what was published.
    """
    storage = open_storage(uri)
    try:
        listed = json.loads(storage.read_bytes(ARTIFACTS_FILE))["files"]
    except NotFoundError:
        raise NotFoundError(
            f"no finished result under {uri}: the step that writes it has not ended there"
        ) from None
    wanted = list(listed if names is None else names)
    for name in wanted:
        if name not in listed:
            raise NotFoundError(f"{uri} has no {name}; it holds {', '.join(sorted(listed))}")
    if not isinstance(storage, LocalStorage):
        raise UserError(f"cannot read artifacts from {uri}: only folders are served")
    for name in wanted:
        path = storage.root / name
        if not path.is_file():
            raise UserError(f"{join_uri(uri, name)} is gone although its step published it")
        found = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        if found != listed[name]:
            raise UserError(
                f"{join_uri(uri, name)} was altered after it was published: expected sha256 "
                f"{listed[name]['sha256'][:12]}…, got {found['sha256'][:12]}…; run its step again"
            )
    return storage.root


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
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        storage.upload(path, name)
        listed[name] = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = json.dumps({"files": listed}, indent=2)
    if not storage.write_if_unchanged(ARTIFACTS_FILE, manifest.encode(), expected=None):
        raise UserError(f"{out_uri} received a finished result from another run meanwhile")
