"""Publishing a data set version: shards first, then `samples.jsonl`, then `manifest.json`.

A folder without a manifest is no version. Shards lie beside all versions, under names that hold
their sha256, so versions share them and a writer that dies leaves nothing that a reader sees.
"""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.randomness import derived_seed
from sightline.data.samples import SPLITS, Sample
from sightline.data.shards import (
    SHARD_SIZE_BYTES,
    SHARDS_FOLDER,
    PackedImage,
    Shard,
    ShardWriter,
    is_recent,
)
from sightline.errors import UserError
from sightline.storage import join_uri, open_storage
from sightline.storage.scratch import ScratchFolder

MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.jsonl"
FORMAT_VERSION = 2

_RANGES = 16_384
_MIN_RANGE_BYTES = 2 * 2**20
_MAX_RANGE_BYTES = 8 * 2**20
_MAX_RANGES = 2**20


def publish_dataset(
    store_uri: str,
    *,
    kind: str,
    classes: Sequence[str],
    shards: Sequence[Shard],
    samples: Iterable[Sample],
    counts: Mapping[str, Any],
    groups: int,
    stored_short_side_px: int = 0,
    scaled_down: int = 0,
) -> str:
    """Make stored shards a version named by its digest, and return its address.

    The digest covers every image, label, split and group, so the same input gives the same
    version; several processes may publish it at once.

    Args:
        store_uri: The data set store; the version becomes a folder below it.
        kind: `images`, `labels` or `boxes`.
        classes: Class names in the order of their indices.
        shards: The shards that hold the images, also ones that another version wrote.
        samples: Every image, ordered by shard and offset; read once, and not kept.
        counts: Images in all, and for each split images, groups and images (or boxes) a class.
        groups: How many groups there are in all.
        stored_short_side_px: Short side that larger images were scaled down to; 0: none was set.
        scaled_down: How many images were.

    Raises:
        UserError: If a shard is not stored.
        ValueError: If the samples are not in order.
    """
    _require_stored(store_uri, shards)
    with ScratchFolder("samples") as scratch:
        listing = scratch / SAMPLES_FILE
        described = _write_listing(listing, shards, samples)
        manifest: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "classes": list(classes),
            "counts": dict(counts),
            "groups": groups,
            "stored_short_side_px": stored_short_side_px,
            "scaled_down": scaled_down,
            "samples_bytes": listing.stat().st_size,
            "shards": described,
        }
        manifest["digest"] = manifest_digest(manifest)
        version_uri = join_uri(store_uri, manifest["digest"][:16])
        _store(version_uri, listing, _readable(manifest).encode())
    return version_uri


def write_dataset(
    images: Iterable[PackedImage],
    store_uri: str,
    *,
    kind: str,
    classes: Sequence[str] = (),
    shard_size_bytes: int = SHARD_SIZE_BYTES,
) -> str:
    """Pack images that fit into memory into a version, and return its address.

    Args:
        images: What to store, in any order.
        store_uri: The data set store; the version becomes a folder below it.
        kind: `images`, `labels` or `boxes`.
        classes: Class names in the order of their indices.
        shard_size_bytes: A new shard starts when one would exceed this.
    """
    # Pre-shuffled, so that a reader of neighbouring members sees no runs of one class.
    ordered = sorted(images, key=lambda image: image.name)
    random.Random(derived_seed("shard order", len(ordered))).shuffle(ordered)
    samples = []
    with ShardWriter(store_uri, shard_size_bytes) as writer:
        for image in ordered:
            member = writer.add(image.content, image.suffix)
            samples.append(
                Sample(
                    name=image.name,
                    group=image.group,
                    split=image.split,
                    sha256=member.sha256,
                    shard=member.shard,
                    offset_bytes=member.offset_bytes,
                    size_bytes=member.size_bytes,
                    width=image.width,
                    height=image.height,
                    label=image.label,
                    boxes=image.boxes,
                )
            )
        shards = writer.close()
    samples.sort(key=lambda sample: (sample.shard, sample.offset_bytes))
    return publish_dataset(
        store_uri,
        kind=kind,
        classes=classes,
        shards=shards,
        samples=samples,
        counts=_count(samples),
        groups=len({sample.group for sample in samples}),
    )


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of all that a manifest says, but for the digest itself."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def range_size_bytes(total_bytes: int) -> int:
    """Return how large a range of a data set of that size may be.

    Small ones mix better, large ones cost fewer requests: a 16,384th of the whole, at least 2 MiB
    and at most 8 MiB. Beyond 8 TiB they grow again, for every reader holds the list of all.
    """
    usual = min(max(total_bytes // _RANGES, _MIN_RANGE_BYTES), _MAX_RANGE_BYTES)
    return max(usual, total_bytes // _MAX_RANGES)


def _require_stored(store_uri: str, shards: Sequence[Shard]) -> None:
    missing = {shard.name: shard.size_bytes for shard in shards}
    # One listing costs less than a question for each shard.
    for entry in open_storage(join_uri(store_uri, SHARDS_FOLDER)).list():
        name = f"{SHARDS_FOLDER}/{entry.key}"
        if missing.get(name) == entry.size_bytes:
            del missing[name]
    if missing:
        raise UserError(
            f"{len(missing)} shards are gone from {store_uri}, such as {next(iter(missing))}: "
            "run prepare again"
        )


def _write_listing(
    path: Path, shards: Sequence[Shard], samples: Iterable[Sample]
) -> list[dict[str, Any]]:
    """Write `samples.jsonl` and return the manifest's entry for each shard."""
    limit_bytes = range_size_bytes(sum(shard.size_bytes for shard in shards))
    entries = [_ShardEntry(shard, limit_bytes) for shard in shards]
    last = (0, 0)
    with path.open("wb") as file:
        for sample in samples:
            place = (sample.shard, sample.offset_bytes)
            if place < last:
                raise ValueError(f"samples must be ordered by shard and offset: {sample.name}")
            last = place
            line = sample.to_line()
            entries[sample.shard].add(sample, line)
            file.write(line)
    start = 0
    described = []
    for entry in entries:
        described.append(entry.to_json(start))
        start += entry.lines_bytes
    return described


class _ShardEntry:
    """A shard's lines of `samples.jsonl`, and its members cut into ranges."""

    def __init__(self, shard: Shard, limit_bytes: int) -> None:
        self._shard = shard
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()
        self.lines_bytes = 0
        self._range_hash = hashlib.sha256()
        self._ranges: list[list[Any]] = []

    def add(self, sample: Sample, line: bytes) -> None:
        self.lines_bytes += len(line)
        self._hash.update(line)
        begin = sample.offset_bytes - tarfile.BLOCKSIZE
        end = sample.offset_bytes + sample.size_bytes + -sample.size_bytes % tarfile.BLOCKSIZE
        # Images of equal bytes share a member, and so its range.
        is_next_member = not self._ranges or begin >= sum(self._ranges[-1][:2])
        if is_next_member and not (self._ranges and end - self._ranges[-1][0] <= self._limit_bytes):
            self._end_range()
            self._ranges.append([begin, 0, 0, 0, 0, 0])
        current = self._ranges[-1]
        current[1] = end - current[0]
        current[2 + SPLITS.index(sample.split)] += 1
        current[5] += len(line)
        self._range_hash.update(line)

    def to_json(self, start: int) -> dict[str, Any]:
        self._end_range()
        return {
            "name": self._shard.name,
            "count": self._shard.count,
            "bytes": self._shard.size_bytes,
            "sha256": self._shard.sha256,
            "samples": [start, self.lines_bytes, self._hash.hexdigest()],
            "ranges": self._ranges,
        }

    def _end_range(self) -> None:
        if self._ranges:
            # Half a sha256: still beyond anybody's reach, and a manifest has many.
            self._ranges[-1].append(self._range_hash.hexdigest()[:32])
        self._range_hash = hashlib.sha256()


def _store(version_uri: str, listing: Path, manifest: bytes) -> None:
    storage = open_storage(version_uri)
    # Also where it is there: it may have been damaged since, and this mends it.
    storage.upload(listing, SAMPLES_FILE)
    if storage.write_if_unchanged(MANIFEST_FILE, manifest, expected=None):
        return
    if storage.read_bytes(MANIFEST_FILE) != manifest:
        raise UserError(
            f"{join_uri(version_uri, MANIFEST_FILE)} was altered: delete {version_uri} and run "
            "prepare again"
        )
    # Another process published the same version; if that was long ago, now it is new again.
    if not is_recent(storage, MANIFEST_FILE, len(manifest)):
        storage.write_bytes(MANIFEST_FILE, manifest)


def _readable(manifest: Mapping[str, Any]) -> str:
    """Return JSON of one line a key, and one a shard."""
    lines = []
    for key, value in manifest.items():
        text = json.dumps(value, ensure_ascii=False)
        if key == "shards":
            rows = ",\n    ".join(json.dumps(shard) for shard in value)
            text = f"[\n    {rows}\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


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
