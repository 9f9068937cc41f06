"""Claim: what any step of any epoch sees is known in less than 5 s and 500 MB at a million images.

A data set of a million images is described by its manifest alone, as `prepare` would write it.
A fresh process opens it and asks for batches in the middle of epochs; seconds count from opening
the manifest, memory is the peak of the whole process with its imports.

python benchmarks/manifest_position.py [--images 1000000] [--image-bytes 20000] [--shard-mib 64]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sightline.data.publish import FORMAT_VERSION, MANIFEST_FILE, manifest_digest, range_size_bytes

LIMIT_SECONDS = 5.0
LIMIT_MB = 500.0
LINE_BYTES = 300

ASK = """
import json, resource, sys, time
from sightline.data import open_dataset
from sightline.data.stream import ImageStream
start = time.perf_counter()
stream = ImageStream(open_dataset(sys.argv[1]), batch_size=4096, seed=0, lanes=128)
opened = time.perf_counter()
asked = [(epoch, step) for epoch in (1, 7, 99) for step in (0, stream.steps_per_epoch // 2)]
images = [len(next(stream.order.batches(e, start_step=s)).places) for e, s in asked]
positioned = time.perf_counter()
peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([opened - start, (positioned - opened) / len(asked), peak_kb / 1000]))
"""


def main() -> int:
    """Print seconds and memory with their limits; 1 if one is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--image-bytes", type=int, default=20_000)
    parser.add_argument("--shard-mib", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = describe(arguments.images, arguments.image_bytes, arguments.shard_mib * 2**20)
        path = Path(folder, MANIFEST_FILE)
        path.write_text(json.dumps(manifest))
        size_mb = path.stat().st_size / 1e6
        command = [sys.executable, "-c", ASK, folder]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    opening, asking, peak_mb = json.loads(answer)
    ranges = sum(len(shard["ranges"]) for shard in manifest["shards"])
    print(
        f"{arguments.images:,} images of {arguments.image_bytes:,} bytes: "
        f"{len(manifest['shards']):,} shards, {ranges:,} ranges, manifest {size_mb:.1f} MB"
    )
    print(f"opening {opening:.2f} s, then {asking:.3f} s for any step of any epoch")
    seconds = opening + asking
    print(f"{'':<12} {'measured':>10} {'limit':>8}  verdict")
    for name, found, limit, unit in (
        ("seconds", seconds, LIMIT_SECONDS, "s"),
        ("peak memory", peak_mb, LIMIT_MB, "MB"),
    ):
        verdict = "kept" if found < limit else "over"
        print(f"{name:<12} {found:>7.2f} {unit:<2} {limit:>5.0f} {unit:<2}  {verdict}")
    return int(seconds >= LIMIT_SECONDS or peak_mb >= LIMIT_MB)


def describe(images: int, image_bytes: int, shard_bytes: int) -> dict[str, Any]:
    """Return the manifest of a data set of equal images, all for training."""
    member_bytes = 512 + image_bytes + -image_bytes % 512
    per_shard = shard_bytes // member_bytes
    per_range = max(1, range_size_bytes(images * member_bytes) // member_bytes)
    shards: list[dict[str, Any]] = []
    for first in range(0, images, per_shard):
        count = min(per_shard, images - first)
        name = f"{len(shards):064x}"
        ranges = []
        for start in range(0, count, per_range):
            held = min(per_range, count - start)
            place = [start * member_bytes, held * member_bytes, held, 0, 0]
            ranges.append([*place, held * LINE_BYTES, f"{start:032x}"])
        shards.append(
            {
                "name": f"shards/{name}.tar",
                "count": count,
                "bytes": count * member_bytes + 1024,
                "sha256": name,
                "samples": [first * LINE_BYTES, count * LINE_BYTES, name],
                "ranges": ranges,
            }
        )
    in_splits = {"train": {"images": images}, "val": {"images": 0}, "test": {"images": 0}}
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "images",
        "classes": [],
        "counts": {"images": images, **in_splits},
        "groups": images,
        "stored_short_side_px": 0,
        "scaled_down": 0,
        "samples_bytes": images * LINE_BYTES,
        "shards": shards,
    }
    return {**manifest, "digest": manifest_digest(manifest)}


if __name__ == "__main__":
    sys.exit(main())
