"""Claim: at 25 ms latency, images come from S3 300 times as fast as by a loop of get_object.

Peer: boto3's `get_object` for one object an image, one after another. Ours: an epoch of an
`ImageStream`, in its shuffled order, every image verified. Both read images of 20 kB through a
proxy that adds 25 ms to the first byte of each response; the same epoch at 0 ms, and for how much
of it the proxy computes, show whether the proxy is the limit. Also claimed: at most 0.06 ms of this
process's CPU an image, hashing aside.

The server is that of TESTBED_S3_ENDPOINT, TESTBED_S3_ACCESS_KEY and TESTBED_S3_SECRET_KEY, else of
AWS's usual environment. A bucket is made for the time of the run.

python benchmarks/read_s3.py [--images 25000] [--peer-images 100] [--repeats 3]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import boto3
from delaying_proxy import delayed

from sightline.data import Sample, open_dataset, publish_dataset
from sightline.data.shards import ShardWriter
from sightline.data.stream import ImageStream
from sightline.storage.settings import use_storage_settings

DELAY_SECONDS = 0.025
IMAGE_BYTES = 20_000
RATIO_LIMIT = 300.0
CPU_LIMIT_MS = 0.06


class Reading(NamedTuple):
    """What reading a number of images took, for one image."""

    images_per_second: float
    cpu_ms: float


def main() -> int:
    """Print both claims with their limits; 1 if one is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--peer-images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    endpoint = find_server()
    with fresh_bucket(endpoint) as bucket:
        print(f"{arguments.images} images of {IMAGE_BYTES} bytes at {endpoint}", flush=True)
        uri = store_images(f"s3://{bucket}/datasets", arguments.images)
        store_objects(endpoint, bucket, arguments.peer_images)
        far: list[Reading] = []
        near: list[Reading] = []
        peer: list[Reading] = []
        proxy_busy: list[float] = []
        for _ in range(arguments.repeats):  # in turns: a slow moment of the machine meets all
            with delayed(endpoint, DELAY_SECONDS) as proxy:
                peer.append(loop_get_object(proxy, bucket, arguments.peer_images))
                far.append(stream_epoch(proxy, uri))
            before = ended_cpu_seconds()
            with delayed(endpoint, 0) as proxy:
                near.append(stream_epoch(proxy, uri))
            seconds = arguments.images / near[-1].images_per_second
            proxy_busy.append((ended_cpu_seconds() - before) / seconds)
    return report(peer, far, near, statistics.median(proxy_busy))


def report(peer: list[Reading], far: list[Reading], near: list[Reading], proxy_busy: float) -> int:
    """Print the medians and the verdicts."""
    hashing_ms = measure_hashing()
    ours, limit_free, theirs = median_of(far), median_of(near), median_of(peer)
    ratio = ours.images_per_second / theirs.images_per_second
    own_ms = ours.cpu_ms - hashing_ms
    print(f"{'median of ' + str(len(far)):<34} {'images/s':>9} {'CPU/image':>10}")
    for name, reading in (
        ("get_object loop, 25 ms", theirs),
        ("ImageStream, 25 ms", ours),
        ("ImageStream, proxy at 0 ms", limit_free),
    ):
        print(f"{name:<34} {reading.images_per_second:>9.0f} {reading.cpu_ms:>7.3f} ms")
    print(f"the proxy, one thread, computed for {100 * proxy_busy:.0f} % of that time")
    ratios = [f.images_per_second / p.images_per_second for f, p in zip(far, peer, strict=True)]
    print(f"\nratio at 25 ms: {ratio:.0f} ({min(ratios):.0f} to {max(ratios):.0f}), ", end="")
    print(f"limit {RATIO_LIMIT:.0f}: {'kept' if ratio >= RATIO_LIMIT else 'missed'}")
    print(f"CPU an image without hashing: {own_ms:.3f} ms, limit {CPU_LIMIT_MS} ms: ", end="")
    print(f"{'kept' if own_ms <= CPU_LIMIT_MS else 'missed'}; hashing {hashing_ms:.3f} ms")
    return int(ratio < RATIO_LIMIT or own_ms > CPU_LIMIT_MS)


def ended_cpu_seconds() -> float:
    """Return how long the processes that this one started, and that have ended, computed."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def find_server() -> str:
    """Return the server's address, with its keys where boto3 and ours look for them."""
    if endpoint := os.environ.get("TESTBED_S3_ENDPOINT"):
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["TESTBED_S3_ACCESS_KEY"]
        os.environ["AWS_SECRET_ACCESS_KEY"] = os.environ["TESTBED_S3_SECRET_KEY"]
    else:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if not endpoint.startswith("http://"):
        sys.exit("a server without TLS is needed: set TESTBED_S3_ENDPOINT or AWS_ENDPOINT_URL_S3")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    use_storage_settings({"s3_endpoint_url": endpoint})
    return endpoint


def client_of(endpoint: str) -> Any:
    """Return boto3's client for a server, or for the proxy before it."""
    config = boto3.session.Config(s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def fresh_bucket(endpoint: str) -> Iterator[str]:
    """Make a bucket, and remove it with all that is in it."""
    client = client_of(endpoint)
    bucket = f"sightline-read-s3-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    try:
        yield bucket
    finally:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for key in [entry["Key"] for page in pages for entry in page.get("Contents", ())]:
            client.delete_object(Bucket=bucket, Key=key)
        client.delete_bucket(Bucket=bucket)


def store_images(store_uri: str, count: int) -> str:
    """Pack images of random bytes, all for training, and return the version's address."""
    source = random.Random(0)
    with ShardWriter(store_uri) as writer:
        members = [writer.add(source.randbytes(IMAGE_BYTES), "jpg") for _ in range(count)]
        shards = writer.close()
    samples = [
        Sample(f"{n:07d}.jpg", f"{n // 20}", "train", member.sha256, *member[:3], 256, 256)
        for n, member in enumerate(members)
    ]
    return publish_dataset(
        store_uri,
        kind="images",
        classes=(),
        shards=shards,
        samples=samples,
        counts={"images": count},
        groups=count // 20,
    )


def store_objects(endpoint: str, bucket: str, count: int) -> None:
    """Store images of random bytes, one an object."""
    client, source = client_of(endpoint), random.Random(1)
    for number in range(count):
        body = source.randbytes(IMAGE_BYTES)
        client.put_object(Bucket=bucket, Key=f"objects/{number}.jpg", Body=body)


def loop_get_object(endpoint: str, bucket: str, count: int) -> Reading:
    """Read one object after another."""
    client = client_of(endpoint)
    client.get_object(Bucket=bucket, Key="objects/0.jpg")["Body"].read()  # connects
    start, cpu_start = time.perf_counter(), time.process_time()
    for number in range(count):
        client.get_object(Bucket=bucket, Key=f"objects/{number}.jpg")["Body"].read()
    return reading(count, start, cpu_start)


def stream_epoch(endpoint: str, uri: str) -> Reading:
    """Read one epoch in batches of 256, from nothing read to the last batch."""
    use_storage_settings({"s3_endpoint_url": endpoint})
    start, cpu_start = time.perf_counter(), time.process_time()
    stream = ImageStream(open_dataset(uri), batch_size=256, seed=0)
    count = sum(len(batch) for batch in stream.batches(1))
    return reading(count, start, cpu_start)


def reading(count: int, start: float, cpu_start: float) -> Reading:
    """Return what `count` images took since both clocks were read."""
    cpu_ms = 1000 * (time.process_time() - cpu_start) / count
    return Reading(count / (time.perf_counter() - start), cpu_ms)


def measure_hashing() -> float:
    """Return the CPU milliseconds of one image's sha256."""
    content = random.Random(2).randbytes(IMAGE_BYTES)
    start = time.process_time()
    for _ in range(5_000):
        hashlib.sha256(content).hexdigest()
    return (time.process_time() - start) / 5


def median_of(readings: list[Reading]) -> Reading:
    """Return the medians of both."""
    return Reading(*(statistics.median(column) for column in zip(*readings, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
