"""Folders for temporary files, which the next process removes where this one is killed."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

_PREFIX = "sightline-"
_LOCK = "lock"


class ScratchFolder:
    """A folder in the system's place for temporary files, removed with what it holds.

    A context manager, or closed by `close`. While its process lives, a file in it is locked; the
    system frees the lock however the process ends.

    Args:
        name: What it is for, as its name will say.
    """

    def __init__(self, name: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{name}-")
        self.path = Path(self._folder.name)
        self._lock = _lock(self.path)

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def scratch_until_exit(name: str) -> Path:
    """Make a scratch folder that is removed when this process ends, and return it.

    A process that was forked from this one leaves it alone.

    Args:
        name: What it is for, as its name will say.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
    _lock(folder)
    atexit.register(_remove_if_ours, folder, os.getpid())
    return folder


def _remove_if_ours(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    # Locked before it has its name: a lock that is there and free is a dead process's.
    unnamed = folder / f"{_LOCK}.new"
    lock = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(OSError):  # no locks here: then nobody removes it but we
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(folder / _LOCK)
    return lock


def remove_dead_scratch() -> int:
    """Remove the scratch folders of this user's processes that were killed; return how many."""
    removed = 0
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed += 1
            finally:
                os.close(lock)
    return removed
