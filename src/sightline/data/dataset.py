"""Reading a data set version that `prepare` packed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data.publish import FORMAT_VERSION, MANIFEST_FILE, SAMPLES_FILE, manifest_digest
from sightline.data.readahead import read_ahead
from sightline.data.samples import Sample, parse_samples
from sightline.errors import UserError
from sightline.images import decode_image
from sightline.machine import usable_cores
from sightline.storage import NotFoundError, join_uri, open_storage
from sightline.storage.verified import AlteredError, read_verified, refuse_altered

# One request reads about this much, and rather reads over a gap than asks twice.
_READ_BYTES = 2**20
_GAP_BYTES = 64 * 2**10
# Each hash hands the interpreter to another thread. Of many that hash at once most would only wait
# to get it back, which took a fifth of all CPU; those that wait for a store need not be counted.
_cutting = BoundedSemaphore(usable_cores())


def _cut_anew() -> None:
    # The threads that held it are not there after a fork.
    global _cutting
    _cutting = BoundedSemaphore(usable_cores())


os.register_at_fork(after_in_child=_cut_anew)


class PackedDataset:
    """The images of a data set version, or a part of them; place i is that of `samples[i]`."""

    def __init__(
        self, uri: str, manifest: dict[str, Any], samples: Sequence[Sample] | None = None
    ) -> None:
        """Take a version, and the samples that are meant; None means all."""
        self.uri = uri
        self.manifest = manifest
        self._samples = None if samples is None else list(samples)
        store_uri, _, self.version = uri.rstrip("/").rpartition("/")
        self.storage = open_storage(store_uri or ("/" if uri.startswith("/") else "."))

    def __len__(self) -> int:
        if self._samples is None:
            return int(self.manifest["counts"]["images"])
        return len(self._samples)

    @property
    def digest(self) -> str:
        """The sha256 that names the version."""
        return str(self.manifest["digest"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label's index is its place here."""
        return tuple(self.manifest["classes"])

    @property
    def samples(self) -> list[Sample]:
        """What is known of each image, read when first asked for.

        Raises:
            UserError: If the list was altered.
        """
        if self._samples is None:
            shards = range(len(self.manifest["shards"]))
            threads = self.storage.parallel_requests
            parts = read_ahead(self._read_samples, shards, threads, 2 * threads)
            self._samples = [sample for part in parts for sample in part]
        return self._samples

    @property
    def groups(self) -> list[str]:
        """Each sample's group."""
        return [sample.group for sample in self.samples]

    @property
    def label_indices(self) -> NDArray[np.int64]:
        """Each sample's class index.

        Raises:
            UserError: If a sample has no label.
        """
        places = {name: index for index, name in enumerate(self.classes)}
        unlabelled = [sample.name for sample in self.samples if sample.label is None]
        if unlabelled:
            raise UserError(
                f"{self.uri} has {len(unlabelled)} images without a label (such as "
                f"{unlabelled[0]}): prepare it from class folders"
            )
        return np.array([places[str(s.label)] for s in self.samples], dtype=np.int64)

    def split(self, name: str) -> PackedDataset:
        """Return the samples of one split: `train`, `val` or `test`."""
        chosen = [sample for sample in self.samples if sample.split == name]
        return PackedDataset(self.uri, self.manifest, chosen)

    def take(self, indices: Sequence[int]) -> PackedDataset:
        """Return the samples at some places, in that order."""
        chosen = [self.samples[index] for index in indices]
        return PackedDataset(self.uri, self.manifest, chosen)

    def read_bytes(self, index: int) -> bytes:
        """Return one image's stored bytes, verified against the sha256 that names them.

        Raises:
            UserError: If the bytes are not those that were packed.
        """
        [content] = self._read_run([self.samples[index]])
        return content

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """Return one image, shape (height, width, 3), RGB, 0..255."""
        return decode_image(self.read_bytes(index))

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield every image's stored bytes in the order of `samples`, verified.

        Neighbours are read together and ahead, so this costs far less than `read_bytes` for each;
        at most some dozens of MB are held.

        Raises:
            UserError: If bytes are not those that were packed.
        """
        threads = self.storage.parallel_requests
        for contents in read_ahead(self._read_run, _runs(self.samples), threads, 2 * threads):
            yield from contents

    def iter_images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield every image in the order of `samples`, shape (height, width, 3), RGB, 0..255."""
        threads = usable_cores()
        return read_ahead(decode_image, self.iter_bytes(), threads, 2 * threads)

    def read_images(self) -> list[NDArray[np.uint8]]:
        """Return every image, decoded into memory."""
        return list(self.iter_images())

    def _read_samples(self, shard: int) -> list[Sample]:
        return read_verified(f"{self.uri}/{SAMPLES_FILE}", lambda: self._read_samples_once(shard))

    def _read_samples_once(self, shard: int) -> list[Sample]:
        start, size_bytes, digest = self.manifest["shards"][shard]["samples"]
        if not size_bytes:
            return []
        try:
            lines = self.storage.read_bytes(f"{self.version}/{SAMPLES_FILE}", start, size_bytes)
        except NotFoundError:
            raise NotFoundError(
                f"{self.uri}/{SAMPLES_FILE} is gone; {prepare_again(self.uri)}"
            ) from None
        found = hashlib.sha256(lines).hexdigest()
        refuse_altered(f"{self.uri}/{SAMPLES_FILE}", digest, found, prepare_again(self.uri))
        return parse_samples(lines)

    def _read_run(self, run: Sequence[Sample]) -> list[bytes]:
        name = self.manifest["shards"][run[0].shard]["name"]
        shard_uri = join_uri(self.storage.uri, name)
        return read_verified(shard_uri, lambda: self._read_run_once(run))

    def _read_run_once(self, run: Sequence[Sample]) -> list[bytes]:
        name = self.manifest["shards"][run[0].shard]["name"]
        start = run[0].offset_bytes
        end = max(sample.offset_bytes + sample.size_bytes for sample in run)
        content = self.storage.read_bytes(name, start, end - start)
        shard_uri = join_uri(self.storage.uri, name)
        return cut_members(content, start, run, shard_uri)


def cut_members(
    content: bytes, start: int, samples: Sequence[Sample], shard_uri: str
) -> list[bytes]:
    """Return images' bytes out of a part of their shard that begins at `start`, verified.

    Raises:
        UserError: If they are not those that were packed.
    """
    with _cutting:
        return [_cut_member(content, start, sample, shard_uri) for sample in samples]


def _cut_member(content: bytes, start: int, sample: Sample, shard_uri: str) -> bytes:
    begin = sample.offset_bytes - start
    member = content[begin : begin + sample.size_bytes]
    return verify_member(member, sample.sha256, sample.name, shard_uri)


def verify_member(member: bytes, sha256: str, name: str, shard_uri: str) -> bytes:
    """Return an image's bytes out of a shard.

    Raises:
        AlteredError: If they are not those that were packed.
    """
    found = hashlib.sha256(member).hexdigest()
    if found != sha256:  # before any words are made, for this runs once an image
        refuse_altered(f"{name} in {shard_uri}", sha256, found, prepare_again(shard_uri))
    return member


def prepare_again(uri: str) -> str:
    """Return what to do about something of a data set that was altered."""
    return f"delete {uri} and run prepare again"


def _runs(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Cut samples into runs of neighbours, each read by one request."""
    run: list[Sample] = []
    for sample in samples:
        if run and not _continues(run, sample):
            yield run
            run = []
        run.append(sample)
    if run:
        yield run


def _continues(run: Sequence[Sample], sample: Sample) -> bool:
    first, last = run[0], run[-1]
    return (
        sample.shard == last.shard
        and sample.offset_bytes >= last.offset_bytes
        and sample.offset_bytes - last.offset_bytes - last.size_bytes <= _GAP_BYTES
        and sample.offset_bytes + sample.size_bytes - first.offset_bytes <= _READ_BYTES
    )


def open_dataset(uri: str) -> PackedDataset:
    """Open a data set version.

    Args:
        uri: The address `prepare` handed on.

    Raises:
        NotFoundError: If no version was published there.
        UserError: If its manifest was altered, or written by another release's format.
    """
    where = join_uri(uri, MANIFEST_FILE)
    manifest = read_verified(where, lambda: _read_manifest(uri, where))
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            f"{uri} has data set format {version}, and this release reads format "
            f"{FORMAT_VERSION}: run prepare again"
        )
    return PackedDataset(uri, manifest)


def _read_manifest(uri: str, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(open_storage(uri).read_bytes(MANIFEST_FILE))
        expected = str(manifest["digest"])
        manifest["format_version"]
    except NotFoundError:
        raise NotFoundError(f"no data set version under {uri}: run sightline prepare") from None
    except (ValueError, KeyError, TypeError):
        raise AlteredError(f"{where} was altered; {prepare_again(uri)}", where) from None
    refuse_altered(where, expected, manifest_digest(manifest), prepare_again(uri))
    return dict(manifest)
