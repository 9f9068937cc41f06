"""Writing a data set version: plain tar shards, `samples.jsonl`, and `manifest.json` last.

Members are named by the sha256 of their stored bytes, so that a range read verifies itself.
Readable by tar and webdataset; no pickle, nothing is extracted by member name.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data.randomness import derived_seed
from sightline.data.samples import SPLITS, Box, Sample
from sightline.storage import join_uri, open_storage

MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.jsonl"
FORMAT_VERSION = 1


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


def write_dataset(
    images: Iterable[PackedImage],
    store_uri: str,
    *,
    kind: str,
    classes: Sequence[str] = (),
    shard_size_bytes: int = 64 * 2**20,
) -> str:
    """Pack images into an immutable version named by its digest, and return its address.

    The digest covers every image, label, split and group, so the same input gives the same
    version, and a version that is already there is left as it is.

    Args:
        images: What to store. Equal bytes in one shard become one member that several samples name.
        store_uri: The data set store; the version becomes a folder below it.
        kind: `images`, `labels` or `boxes`.
        classes: Class names in the order of their indices.
        shard_size_bytes: A new shard starts when one would exceed this.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-shards-") as scratch:
        samples, shards = _write_shards(images, Path(scratch), shard_size_bytes)
        lines = "".join(json.dumps(s.to_json(), ensure_ascii=False) + "\n" for s in samples)
        manifest: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "classes": list(classes),
            "counts": _count(samples),
            "groups": len({sample.group for sample in samples}),
            "samples_sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "shards": shards,
        }
        canonical = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
        manifest["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
        version_uri = join_uri(store_uri, manifest["digest"][:16])
        storage = open_storage(version_uri)
        if not storage.exists(MANIFEST_FILE):
            for shard in shards:
                storage.upload(Path(scratch, shard["name"]), shard["name"])
            storage.write_bytes(SAMPLES_FILE, lines.encode())
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            storage.write_bytes(MANIFEST_FILE, text.encode())
    return version_uri


def _write_shards(
    images: Iterable[PackedImage], folder: Path, shard_size_bytes: int
) -> tuple[list[Sample], list[dict[str, Any]]]:
    samples: list[Sample] = []
    shards: list[dict[str, Any]] = []
    # Pre-shuffled, so that a reader of neighbouring members sees no runs of one class.
    ordered = sorted(images, key=lambda image: image.name)
    random.Random(derived_seed("shard order", len(ordered))).shuffle(ordered)
    position = 0
    while position < len(ordered):
        name = f"shard-{len(shards):05d}.tar"
        count = 0
        offsets: dict[str, int] = {}
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as archive:
            while position < len(ordered):
                image = ordered[position]
                # A member has a header and padding, and two blocks end the archive.
                end = archive.offset + len(image.content) + 4 * tarfile.BLOCKSIZE
                if count and end > shard_size_bytes:
                    break
                samples.append(_add(archive, image, name, offsets))
                position += 1
                count = len(offsets)
        path = folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
        shards.append({"name": name, "count": count, "bytes": size_bytes, "sha256": digest})
    return samples, shards


def _add(
    archive: tarfile.TarFile, image: PackedImage, shard: str, offsets: dict[str, int]
) -> Sample:
    digest = hashlib.sha256(image.content).hexdigest()
    # webdataset refuses a shard that holds a key twice, so equal bytes share one member.
    if digest not in offsets:
        member = tarfile.TarInfo(f"{digest}.{image.suffix}")
        member.size = len(image.content)
        # Owner, mode and time stay fixed: equal images must give equal shards.
        member.mode = 0o644
        offsets[digest] = archive.offset + tarfile.BLOCKSIZE
        archive.addfile(member, io.BytesIO(image.content))
    return Sample(
        name=image.name,
        group=image.group,
        split=image.split,
        sha256=digest,
        shard=shard,
        offset_bytes=offsets[digest],
        size_bytes=len(image.content),
        width=image.width,
        height=image.height,
        label=image.label,
        boxes=image.boxes,
    )


def _count(samples: Sequence[Sample]) -> dict[str, Any]:
    counts: dict[str, Any] = {"images": len(samples)}
    for split in SPLITS:
        chosen = [sample for sample in samples if sample.split == split]
        labels = Counter(sample.label for sample in chosen if sample.label is not None)
        for sample in chosen:
            labels.update(box.class_name for box in sample.boxes or ())
        counts[split] = {
            "images": len(chosen),
            "groups": len({sample.group for sample in chosen}),
            "classes": dict(sorted(labels.items())),
        }
    return counts
