"""Writing shards: plain tar files that leave for the store while the next one fills.

Members are named by the sha256 of their stored bytes, so that a range read verifies itself.
Readable by tar and webdataset; no pickle, nothing is extracted by member name.
"""

from __future__ import annotations

import hashlib
import tarfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from sightline.data.samples import Box
from sightline.storage import Storage, join_uri, open_storage
from sightline.storage.scratch import ScratchFolder

SHARDS_FOLDER = "shards"
SHARD_SIZE_BYTES = 64 * 2**20
REUSE_SECONDS = 12 * 3600.0
"""Up to this age what is stored is taken as it is; later it is written again, so that it counts as
new for a garbage collection that spares what is younger than a day."""

_WRITE_BYTES = 2**20
_END = bytes(2 * tarfile.BLOCKSIZE)


def _nameless_header() -> bytes:
    member = tarfile.TarInfo()
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _nameless_header()


@dataclass(frozen=True)
class PackedImage:
    """An image ready to be stored: its bytes as they will be read back, and what is known of it."""

    content: bytes
    suffix: str
    name: str
    group: str
    split: str
    width: int
    height: int
    label: str | None = None
    boxes: tuple[Box, ...] | None = None


class Member(NamedTuple):
    """Where an image's bytes lie: the shard's place among its writer's, and the bytes in it."""

    shard: int
    offset_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A stored tar file; `name` is its key below the data set store and holds its sha256."""

    name: str
    count: int
    """How many members it has."""
    size_bytes: int
    sha256: str


class ShardWriter:
    """Packs images into tar shards and stores each under its sha256, as images come.

    A context manager. Its scratch folder holds at most two shards: one that fills and one that is
    on its way. What it stored is seen by nobody until a version names it, and after a crash the
    next run finds the same shards there. Equal bytes in one shard become one member.
    """

    def __init__(self, store_uri: str, shard_size_bytes: int = SHARD_SIZE_BYTES) -> None:
        self._storage = open_storage(join_uri(store_uri, SHARDS_FOLDER))
        self._shard_size_bytes = shard_size_bytes
        self._shards: list[Shard] = []
        self._open: _OpenShard | None = None
        self._scratch = ScratchFolder("shards")
        self._uploader = ThreadPoolExecutor(1, "shard-upload")
        self._upload: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self._open.file.close()
        self._uploader.shutdown(wait=True, cancel_futures=True)
        self._scratch.close()

    def add(self, content: bytes, suffix: str, sha256: str = "") -> Member:
        """Store an image's bytes and return where they will lie.

        Args:
            content: The bytes.
            suffix: What their name ends in, such as `jpg`.
            sha256: Of the bytes, where it is known already.

        Raises:
            UserError: If the shard before could not be stored.
        """
        digest = sha256 or hashlib.sha256(content).hexdigest()
        if self._open and not self._open.fits(digest, content, self._shard_size_bytes):
            self._finish()
        if not self._open:
            self._open = _OpenShard(self._scratch.path / f"{len(self._shards)}.tar")
        offset = self._open.add(digest, content, suffix)
        return Member(len(self._shards), offset, len(content), digest)

    def end(self) -> None:
        """Begin to store the last shard; `close` waits for it."""
        if self._open:
            self._finish()

    def close(self) -> list[Shard]:
        """Store the last shard, wait until all are there, and return them in their order."""
        self.end()
        if self._upload:
            self._upload.result()
        return self._shards

    def _finish(self) -> None:
        assert self._open
        shard = self._open.close()
        if self._upload:
            self._upload.result()
        self._upload = self._uploader.submit(self._store, shard, self._open.path)
        self._shards.append(shard)
        self._open = None

    def _store(self, shard: Shard, path: Path) -> None:
        key = path_in_shards(shard)
        if not is_recent(self._storage, key, shard.size_bytes):
            self._storage.upload(path, key)
        path.unlink()


class _OpenShard:
    """A tar file under construction; every byte is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._offsets: dict[str, int] = {}

    def fits(self, digest: str, content: bytes, limit_bytes: int) -> bool:
        padded = tarfile.BLOCKSIZE + len(content) + -len(content) % tarfile.BLOCKSIZE
        return digest in self._offsets or self._size_bytes + padded + len(_END) <= limit_bytes

    def add(self, digest: str, content: bytes, suffix: str) -> int:
        # webdataset refuses a shard that holds a key twice, so equal bytes share one member.
        if digest not in self._offsets:
            header = tar_header(f"{digest}.{suffix}", len(content))
            self._offsets[digest] = self._size_bytes + len(header)
            self._write(header, content, bytes(-len(content) % tarfile.BLOCKSIZE))
        return self._offsets[digest]

    def close(self) -> Shard:
        self._write(_END)
        self._flush()
        self.file.close()
        digest = self._hash.hexdigest()
        name = f"{SHARDS_FOLDER}/{digest}.tar"
        return Shard(name, len(self._offsets), self._size_bytes, digest)

    def _write(self, *parts: bytes) -> None:
        size_bytes = sum(len(part) for part in parts)
        self._unwritten += parts
        self._unwritten_bytes += size_bytes
        self._size_bytes += size_bytes
        if self._unwritten_bytes >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        # Each write and each hash lets other threads have the interpreter, and waits to get it
        # back: once a megabyte instead of six times an image.
        content = b"".join(self._unwritten)
        self.file.write(content)
        self._hash.update(content)
        self._unwritten, self._unwritten_bytes = [], 0


def tar_header(name: str, size_bytes: int) -> bytes:
    """Return the block of a USTAR file that precedes a member of less than 8 GiB.

    Owner, mode and time stay fixed: equal images must give equal shards. tarfile builds the same
    in ten times the time.
    """
    block, encoded = bytearray(_HEADER), name.encode()
    block[: len(encoded)] = encoded
    block[124:136] = b"%011o\0" % size_bytes
    # The sum is that of the block with blanks in its own place.
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def path_in_shards(shard: Shard) -> str:
    """Return a shard's key below the folder of all shards."""
    return shard.name.removeprefix(f"{SHARDS_FOLDER}/")


def is_recent(storage: Storage, key: str, size_bytes: int) -> bool:
    """Say whether an object of that size was stored under the key, and not long ago."""
    entries = (entry for entry in storage.list(key) if entry.key == key)
    return any(
        entry.size_bytes == size_bytes and time.time() - entry.modified < REUSE_SECONDS
        for entry in entries
    )
