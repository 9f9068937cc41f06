"""Reading a data set version that `prepare` packed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.config import UserError
from sightline.data.images import decode_image
from sightline.data.samples import Sample
from sightline.data.shards import MANIFEST_FILE, SAMPLES_FILE
from sightline.storage import NotFoundError, Storage, open_storage


class PackedDataset:
    """The images of a data set version, or a part of them; `images[i]` belongs to `samples[i]`."""

    def __init__(
        self, uri: str, storage: Storage, manifest: dict[str, Any], samples: Sequence[Sample]
    ) -> None:
        self.uri = uri
        self.manifest = manifest
        self.samples = list(samples)
        self._storage = storage

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """The sha256 that names the version."""
        return str(self.manifest["digest"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label's index is its place here."""
        return tuple(self.manifest["classes"])

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
        return PackedDataset(self.uri, self._storage, self.manifest, chosen)

    def take(self, indices: Sequence[int]) -> PackedDataset:
        """Return the samples at some places, in that order."""
        chosen = [self.samples[index] for index in indices]
        return PackedDataset(self.uri, self._storage, self.manifest, chosen)

    def read_bytes(self, index: int) -> bytes:
        """Return one image's stored bytes, verified against the sha256 that names them.

        Raises:
            UserError: If the bytes are not those that were packed.
        """
        sample = self.samples[index]
        content = self._storage.read_bytes(sample.shard, sample.offset_bytes, sample.size_bytes)
        found = hashlib.sha256(content).hexdigest()
        if found != sample.sha256:
            raise UserError(
                f"{sample.name} in {self.uri}/{sample.shard} was altered: expected sha256 "
                f"{sample.sha256[:12]}…, got {found[:12]}…; run prepare again"
            )
        return content

    def read_image(self, index: int) -> NDArray[np.uint8]:
        """Return one image, shape (height, width, 3), RGB, 0..255."""
        return decode_image(self.read_bytes(index))

    def read_images(self) -> list[NDArray[np.uint8]]:
        """Return every image, decoded into memory; a set that fits is decoded once."""
        return [self.read_image(index) for index in range(len(self))]


def open_dataset(uri: str) -> PackedDataset:
    """Open a data set version.

    Args:
        uri: The address `prepare` handed on.

    Raises:
        NotFoundError: If no version was published there.
        UserError: If its list of samples was altered.
    """
    storage = open_storage(uri)
    try:
        manifest = json.loads(storage.read_bytes(MANIFEST_FILE))
    except NotFoundError:
        raise NotFoundError(f"no data set version under {uri}: run sightline prepare") from None
    lines = storage.read_bytes(SAMPLES_FILE)
    if hashlib.sha256(lines).hexdigest() != manifest["samples_sha256"]:
        raise UserError(f"{uri}/{SAMPLES_FILE} was altered; run prepare again")
    samples = [Sample.from_json(json.loads(line)) for line in lines.decode().split("\n") if line]
    return PackedDataset(uri, storage, manifest, samples)
