"""A folder as storage: written beside, then renamed, so that nobody reads half a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sightline.errors import UserError
from sightline.storage.base import Entry, NotFoundError, UnreadableError

_PARTIAL_PREFIX = ".partial-"
_LOCK_FILE = f"{_PARTIAL_PREFIX}lock"
_COPIED_BYTES = 2**20


class LocalStorage:
    """Objects as files below one folder."""

    parallel_requests = 4

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()
        self.uri = str(self.root)

    def read_bytes(self, key: str, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, or `size_bytes` of them from `start`."""
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return file.read(-1 if size_bytes is None else size_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"nothing is stored at {self.root / key}") from None
        except OSError as error:
            raise UnreadableError(f"cannot read {self.root / key}: {error.strerror}") from None

    def write_bytes(self, key: str, content: bytes) -> None:
        """Store an object whole."""
        with replacing(self._path(key)) as partial:
            partial.write_bytes(content)

    def write_if_unchanged(self, key: str, content: bytes, expected: bytes | None) -> bool:
        """Store an object only if it still holds `expected` (None: is absent)."""
        path = self._path(key)
        if expected is None:
            try:
                with replacing(path, _put_new) as partial:
                    partial.write_bytes(content)
            except FileExistsError:
                return False
            return True
        _make_folder(path.parent)
        with _locked(path.parent):
            if not _is_file(path) or self.read_bytes(key) != expected:
                return False
            self.write_bytes(key, content)
            return True

    def upload(self, source: Path, key: str, only_new: bool = False) -> bool:
        """Store a local file whole; with `only_new`, only where nothing is stored yet."""
        path = self._path(key)
        if only_new and _is_file(path):
            return False
        try:
            with replacing(path, _put_new if only_new else os.replace) as partial:
                shutil.copyfile(source, partial)
        except FileExistsError:
            return False
        return True

    def download(self, key: str, target: Path) -> None:
        """Fetch an object into a local file, whole or not at all."""
        path = self._path(key)
        if not _is_file(path):
            raise NotFoundError(f"nothing is stored at {path}")
        try:
            source = path.open("rb")
        except OSError as error:
            raise UnreadableError(f"cannot read {path}: {error.strerror}") from None
        with source, replacing(target) as partial, partial.open("wb") as file:
            shutil.copyfileobj(source, file, _COPIED_BYTES)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of the keys."""
        # Not from the top: a root may hold many runs, and be asked for each.
        folder = prefix.rpartition("/")[0]
        top, key = (self._path(folder), f"{folder}/") if folder else (self.root, "")
        for entry in _walk(top, key, prefix):
            if not _is_partial(entry):
                yield entry

    def find(self, key: str) -> Entry | None:
        """Return the object that is stored under the key, or None if there is none."""
        path = self._path(key)
        try:
            return _entry(path, key)
        except OSError as error:
            raise _cannot_look_at(path, error) from None

    def exists(self, key: str) -> bool:
        """Say whether an object is stored under the key."""
        return _is_file(self._path(key))

    def delete(self, key: str) -> None:
        """Remove an object."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror}") from None

    def clear(self) -> None:
        """Remove every object, and the folders that are then empty."""
        for entry in [*self.list(), *self.list_unfinished()]:
            self.delete(entry.key)
        folders = [Path(folder) for folder, _, _ in os.walk(self.root, topdown=False)]
        for folder in [*folders, self.root.parent]:
            with contextlib.suppress(OSError):  # another writer has just put something there
                folder.rmdir()

    def require_writable(self) -> None:
        """Raise now, rather than after hours of work, if nothing can be stored here."""
        folder = self.root.absolute()
        try:
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            is_ours = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
            is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        except OSError as error:
            raise UserError(f"cannot write below {self.root}: {error.strerror}") from None
        if is_read_only:
            raise UserError(
                f"cannot write below {self.root}: the file system of {folder} is read-only; mount "
                "it for writing, after looking whether its disk is sound, or choose another folder"
            )
        if not is_ours:
            raise UserError(f"cannot write below {self.root}: {folder} is not ours to write to")

    def list_unfinished(self) -> Iterator[Entry]:
        """Yield files that a write began and, being killed, never put in place."""
        return (entry for entry in _walk(self.root, "", "") if _is_partial(entry))

    def delete_unfinished(self, entry: Entry) -> None:
        """Remove what an unfinished write left behind."""
        if not _is_partial(entry):
            raise ValueError(f"{entry} does not come from list_unfinished")
        self.delete(entry.key)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or ".." in parts or key.startswith("/") or "\0" in key:
            raise UserError(f"key {key!r} would leave {self.root}")
        return self.root.joinpath(*parts)


@contextmanager
def replacing(path: Path, put: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    """Give an empty file beside `path`, and put it in its place when the block has succeeded.

    Raises:
        UserError: If it cannot be written; then `path` is as it was, and nothing lies beside it.
        FileExistsError: If `put` raised it; so, too.
    """
    _make_folder(path.parent)
    try:
        descriptor, name = tempfile.mkstemp(prefix=_PARTIAL_PREFIX, dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        put(partial, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Or a power cut may undo the rename, though the file's bytes are on the disk (fsync(2)).
    with contextlib.suppress(OSError):  # a file system that cannot, or a folder we may not open
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_new(partial: Path, path: Path) -> None:
    """Put a file in its place unless there is one.

    Raises:
        FileExistsError: If there is.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with _locked(path.parent):
            if path.exists():
                raise FileExistsError(path) from None
            partial.replace(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The folder itself is locked, so that no lock file is left among the user's results. NFS locks
    # only what is open for writing, as no folder can be (flock(2), NFS details): there one stays.
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                lock = os.open(folder / _LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o644)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.utime(lock)  # nobody may take it for what a killed write left
        except OSError as error:
            raise UserError(
                f"cannot lock {folder}: {error.strerror}; two writers at once could undo each "
                "other there: choose another folder"
            ) from None
        yield


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise _cannot_look_at(path, error) from None


def _cannot_look_at(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot look at {path}: {error.strerror}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write below {folder}: {error.strerror}") from None


def _walk(folder: Path, key: str, prefix: str, above: tuple[Path, ...] = ()) -> Iterator[Entry]:
    """Yield the files below a folder whose keys start with `prefix`, in the order of the keys.

    A link that leads back to where we are, or came through by other links (`above`), is passed
    over; it would be followed without end.

    Nothing is held but the names of one folder a level. A folder sorts as its name and `/`, which
    is where the keys below it belong: `a-b` comes before `a/c`.
    """
    try:
        with os.scandir(folder) as found:
            names = sorted(item.name + "/" if item.is_dir() else item.name for item in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from None
    for name in names:
        below = key + name
        path = folder / name
        if name.endswith("/"):
            if not (below.startswith(prefix) or prefix.startswith(below)):
                continue
            if not path.is_symlink():
                yield from _walk(path, below, prefix, above)
                continue
            target, passed = path.resolve(), (*above, folder.resolve())
            if not any(place.is_relative_to(target) for place in passed):
                yield from _walk(path, below, prefix, passed)
        elif below.startswith(prefix) and (entry := _entry(path, below)):
            yield entry


def _entry(path: Path, key: str) -> Entry | None:
    """Describe a file; None of what is none, was removed meanwhile, or is a broken link."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Entry(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None


def _is_partial(entry: Entry) -> bool:
    return entry.key.rpartition("/")[2].startswith(_PARTIAL_PREFIX)
