"""The storage protocol: what every step may ask of a folder or a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sightline.config import check_address
from sightline.errors import UserError


class NotFoundError(UserError):
    """An address or a key that holds nothing."""


class UnreadableError(UserError):
    """One object that its store does not give, though it may give others."""


class StorageUnavailableError(Exception):
    """A store that gave no answer within the deadline: nothing the user did wrong, so try later."""


@dataclass(frozen=True)
class Entry:
    """One stored object: its key below the storage's address, its size, and when it was written."""

    key: str
    size_bytes: int
    modified: float = 0.0
    """Unix time in seconds, by the clock of the store."""


class Storage(Protocol):
    """Objects under one address; keys use `/` and never leave it. Threads may share one."""

    uri: str
    parallel_requests: int
    """How many reads or writes at once make it fastest."""

    def read_bytes(self, key: str, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, or `size_bytes` of them from `start`.

        Raises:
            NotFoundError: If nothing is stored under the key.
            UnreadableError: If it may not be read, or is archived or damaged.
        """
        ...

    def write_bytes(self, key: str, content: bytes) -> None:
        """Store an object whole; a reader sees the old one or the new one, never a part."""
        ...

    def write_if_unchanged(self, key: str, content: bytes, expected: bytes | None) -> bool:
        """Store an object only if it still holds `expected` (None: is absent); say whether."""
        ...

    def upload(self, source: Path, key: str, only_new: bool = False) -> bool:
        """Store a local file whole; with `only_new`, only where nothing is stored yet.

        Returns:
            Whether it was stored. False may also follow a try of ours that was carried out although
            its answer was lost: look at what is stored there.
        """
        ...

    def download(self, key: str, target: Path) -> None:
        """Fetch an object into a local file, whole or not at all, in bounded memory.

        Raises:
            NotFoundError: If nothing is stored under the key.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose key starts with `prefix`, in the order of the keys."""
        ...

    def find(self, key: str) -> Entry | None:
        """Return the object that is stored under the key, or None if there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Say whether an object is stored under the key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is no error."""
        ...

    def clear(self) -> None:
        """Remove every object below the address, and the folders that are then empty."""
        ...

    def require_writable(self) -> None:
        """Raise now, rather than after hours of work, if nothing can be stored here.

        Raises:
            UserError: If so.
        """
        ...

    def list_unfinished(self) -> Iterator[Entry]:
        """Yield writes that were begun and never ended; no reader sees them."""
        ...

    def delete_unfinished(self, entry: Entry) -> None:
        """Remove what an unfinished write left behind."""
        ...


def open_storage(uri: str) -> Storage:
    """Open a folder for reading and writing objects below it.

    Args:
        uri: `s3://bucket/prefix`, a path, or `file://` and a path. A folder is created when first
            written to; a bucket must exist.

    Raises:
        UserError: If the address is empty, or one that `check_address` refuses.
    """
    if not uri:
        raise UserError("an address is needed, got an empty one: give a folder")
    try:
        check_address(uri)
    except ValueError as error:
        raise UserError(str(error)) from None
    if uri.startswith("s3://"):
        from sightline.storage.s3 import S3Storage

        return S3Storage(uri)
    from sightline.storage.local import LocalStorage

    return LocalStorage(Path(uri.removeprefix("file://")))


class InTheWayError(UserError):
    """What can neither be read nor be written anew, for something else is in its place."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{uri} cannot be written, although nobody else does: look what is in its place, such "
            "as a folder or a link that leads nowhere, and remove that"
        )


def join_uri(uri: str, *parts: str) -> str:
    """Return the address of something below `uri`."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)]) or "/"
