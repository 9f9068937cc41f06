"""Claim: prepare takes 5,000 small objects from S3 to S3 20 times as fast as a loop with boto3.

At 25 ms latency, added by a proxy to the first byte of each response. The peer does the same work
one object after another: `get_object`, decode and check, thumbnail, hash of the pixels and of the
file, a member of a tar file; at the end it uploads the tar file. Ours is the whole step, from the
listing to the published version and the data report. The step at 0 ms shows what the proxy and
the machine let through.

The server is that of TESTBED_S3_ENDPOINT, TESTBED_S3_ACCESS_KEY and TESTBED_S3_SECRET_KEY, else of
AWS's usual environment. A bucket is made for the time of the run.

python benchmarks/ingest_s3.py [--images 5000] [--peer-images 200] [--repeats 3]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from delaying_proxy import delayed
from PIL import Image
from read_s3 import client_of, find_server, fresh_bucket

from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run
from sightline.storage.settings import use_storage_settings

DELAY_SECONDS = 0.025
SIDE_PX = 256
RATIO_LIMIT = 20.0


def main() -> int:
    """Print milliseconds an image and the ratio; 1 if it is below the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--peer-images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    endpoint = find_server()
    with fresh_bucket(endpoint) as bucket:
        size = store_images(endpoint, bucket, arguments.images)
        print(f"{arguments.images} JPEG files of {size:.0f} bytes on average, {SIDE_PX} px")
        peer, far, near, own, all_cores = [], [], [], [], []
        for _ in range(arguments.repeats):  # in turns: a slow moment of the machine meets all
            with delayed(endpoint, DELAY_SECONDS) as proxy:
                peer.append(loop_with_boto3(proxy, bucket, arguments.peer_images))
                before = cpu_seconds()
                far.append(prepare(proxy, bucket, arguments.images))
                after = cpu_seconds()
                own.append(1000 * (after[0] - before[0]) / arguments.images)
                all_cores.append(1000 * (after[1] - before[1]) / arguments.images)
            with delayed(endpoint, 0) as proxy:
                near.append(prepare(proxy, bucket, arguments.images))
    for name, values in (
        ("boto3 loop, 25 ms", peer),
        ("prepare, 25 ms", far),
        ("prepare, proxy at 0 ms", near),
    ):
        print(f"{name:<24} {statistics.median(values):>8.2f} ms an image")
    print(f"our own CPU, 25 ms       {statistics.median(own):>8.2f} ms an image")
    print(
        f"all {os.cpu_count()} cores, 25 ms    {statistics.median(all_cores):>8.2f} ms an image: "
        "ours, the server's and the proxy's"
    )
    ratios = [theirs / ours for theirs, ours in zip(peer, far, strict=True)]
    ratio = statistics.median(peer) / statistics.median(far)
    verdict = "kept" if ratio >= RATIO_LIMIT else "missed"
    print(
        f"ratio {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}), limit {RATIO_LIMIT:g}: ",
        end="",
    )
    print(verdict)
    return int(ratio < RATIO_LIMIT)


def cpu_seconds() -> tuple[float, float]:
    """Return how long this process, and all of the machine, have computed so far."""
    busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _waiting, interrupts, softirqs = map(int, busy[1:8])
    ticks = user + nice + system + interrupts + softirqs
    return time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def store_images(endpoint: str, bucket: str, count: int) -> float:
    """Store noisy gray pictures, four of each patient, and return their mean size in bytes."""
    client = client_of(endpoint)

    def store(number: int) -> int:
        random = np.random.default_rng(number)
        y, x = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX
        wave = np.sin(9 * x * random.random() + 6 * y * random.random() + 6 * random.random())
        gray = 128 + 60 * wave + random.normal(0, 9, size=wave.shape)
        buffer = io.BytesIO()
        picture = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))
        picture.convert("RGB").save(buffer, "JPEG", quality=85)
        client.put_object(
            Bucket=bucket, Key=f"in/p{number // 4:05d}_{number % 4}.jpg", Body=buffer.getvalue()
        )
        return buffer.tell()

    with ThreadPoolExecutor(4) as pool:
        return statistics.fmean(pool.map(store, range(count)))


def loop_with_boto3(endpoint: str, bucket: str, count: int) -> float:
    """Take objects into a tar file one after another; milliseconds each."""
    client = client_of(endpoint)
    start = time.perf_counter()
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="in/", PaginationConfig={"MaxItems": count}
    )
    seen = set()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "shard.tar")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for entry in (entry for page in pages for entry in page["Contents"]):
                content = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                pixels = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
                thumbnail = (
                    Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
                )
                seen.add((hashlib.sha256(pixels).hexdigest(), thumbnail.tobytes()))
                member = tarfile.TarInfo(f"{hashlib.sha256(content).hexdigest()}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        client.upload_file(str(path), bucket, f"peer/{uuid.uuid4().hex}.tar")
    assert len(seen) == count
    return 1000 * (time.perf_counter() - start) / count


def prepare(endpoint: str, bucket: str, count: int) -> float:
    """Run the whole step into a store of its own; milliseconds an image."""
    use_storage_settings({"s3_endpoint_url": endpoint})
    target = f"s3://{bucket}/{uuid.uuid4().hex}"
    uris = PrepareUris(
        images_uri=f"s3://{bucket}/in", store_uri=f"{target}/datasets", out_uri=f"{target}/out"
    )
    start = time.perf_counter()
    metrics = run(uris, PrepareConfig(group_pattern=r"(p\d+)_"))
    seconds = time.perf_counter() - start
    assert metrics["counts"]["images"]["images"] == count
    return 1000 * seconds / count


if __name__ == "__main__":
    sys.exit(main())
