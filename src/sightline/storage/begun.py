"""What a step leaves beside its results while it works, so that `gc` keeps what it was given."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sightline.config import StepUris
from sightline.errors import UserError
from sightline.machine import started_by_torchrun
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.base import Storage, StorageUnavailableError, open_storage
from sightline.storage.local import LocalStorage

_PREFIX = ".begun-"
BEGUN_FILE = r"\.begun-[0-9a-f]{12}\.json"
"""What such a file is named, as a regular expression; hidden, since it is no result."""


@contextmanager
def step_begun(step: str, uris: StepUris) -> Iterator[None]:
    """Say in its `out_uri`, for as long as a step works, what it was given.

    The file goes when the step has succeeded, with those of earlier tries that were given the
    same, and when the step refused its input before it stored anything. Otherwise it stays, for the
    step may go on.

    Raises:
        UserError: If `out_uri` cannot be written to.
    """
    given = uris.to_json()
    storage = open_storage(given["out_uri"])
    # Of several processes of a training the first speaks; a finished result needs nothing more.
    is_other = started_by_torchrun() and os.environ["RANK"] != "0"
    if is_other or storage.exists(ARTIFACTS_FILE):
        yield
        return
    missing = _missing_folders(storage)
    mark = f"{_PREFIX}{secrets.token_hex(6)}.json"  # its own: another try may be at work too
    content = json.dumps({"step": step, "uris": given}).encode()
    storage.write_bytes(mark, content)
    try:
        yield
    except UserError:
        with _no_matter():
            if not _has_stored(storage, mark):
                storage.delete(mark)
                for folder in missing:
                    folder.rmdir()
        raise
    with _no_matter():
        for key in [entry.key for entry in storage.list(_PREFIX)]:
            if re.fullmatch(BEGUN_FILE, key) and storage.read_bytes(key) == content:
                storage.delete(key)


@contextmanager
def _no_matter() -> Iterator[None]:
    """Pass over a failure: a mark that stays keeps a little too much, and for a while."""
    with contextlib.suppress(UserError, StorageUnavailableError, OSError):
        yield


def _has_stored(storage: Storage, mark: str) -> bool:
    """Say whether anything came since a step began, by the clock of the store."""
    began = storage.find(mark)
    return began is not None and any(
        entry.modified >= began.modified and not re.fullmatch(BEGUN_FILE, entry.key)
        for entry in storage.list()
    )


def _missing_folders(storage: Storage) -> list[Path]:
    """Return the folders that the first write makes, the deepest first; a bucket has none."""
    if not isinstance(storage, LocalStorage):
        return []
    return [folder for folder in (storage.root, *storage.root.parents) if not folder.exists()]
