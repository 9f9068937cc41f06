"""Claim: prepare takes 5,000 small objects from S3 to S3 20 times as fast as a loop with boto3.

At 25 ms latency, added by a proxy to the first byte of each response. Both list the objects, get
each, check its size, its EXIF and that it decodes whole, shrink it to a thumbnail, hash its pixels
and its bytes, place its group in a split, write it into a tar file and a line of JSON about it,
compare every thumbnail with every other, and upload what they wrote. The peer does so one object
after another, with `get_object`, and ends there. Ours is the whole step: beyond that it tries
failed requests again, keeps a catalogue on disk, takes sets larger than memory, publishes so that
a kill at any moment does no harm, and writes the data report; none of that is taken off its time.

The step at 0 ms shows what the proxy and the machine let through. CPU is told for each of those
that share the cores: it depends less than the time on what else the machine does.

The server is that of TESTBED_S3_ENDPOINT, TESTBED_S3_ACCESS_KEY and TESTBED_S3_SECRET_KEY, else of
AWS's usual environment. A bucket is made for the time of the run.

python benchmarks/ingest_s3.py [--images 5000] [--peer-images 500] [--repeats 3]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import simplejpeg
from delaying_proxy import delayed
from PIL import Image
from read_s3 import client_of, ended_cpu_seconds, find_server, fresh_bucket

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
    parser.add_argument("--peer-images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    endpoint = find_server()
    with fresh_bucket(endpoint) as bucket:
        size = store_images(endpoint, bucket, arguments.images)
        print(f"{arguments.images} JPEG files of {size:.0f} bytes on average, {SIDE_PX} px")
        peer, far, near, cpu = [], [], [], []
        for _ in range(arguments.repeats):  # in turns: a slow moment of the machine meets all
            with delayed(endpoint, DELAY_SECONDS) as proxy:
                peer.append(loop_with_boto3(proxy, bucket, arguments.peer_images))
            before, server_before = ended_cpu_seconds(), server_cpu_seconds(endpoint)
            own = time.process_time()
            with delayed(endpoint, DELAY_SECONDS) as proxy:
                far.append(prepare(proxy, bucket, arguments.images))
                # Its processes have ended, and the proxy not yet.
                own, processes = time.process_time() - own, ended_cpu_seconds() - before
            proxy_seconds = ended_cpu_seconds() - before - processes
            seconds = own, processes, proxy_seconds, server_cpu_seconds(endpoint) - server_before
            cpu.append([1000 * part / arguments.images for part in seconds])
            with delayed(endpoint, 0) as proxy:
                near.append(prepare(proxy, bucket, arguments.images))
    for name, values in (
        ("boto3 loop, 25 ms", peer),
        ("prepare, 25 ms", far),
        ("prepare, proxy at 0 ms", near),
    ):
        print(f"{name:<24} {statistics.median(values):>8.2f} ms an image")
    parts = [statistics.median(column) for column in zip(*cpu, strict=True)]
    names = "prepare's", "its processes'", "the proxy's", "the server's"
    for name, part in zip(names, parts, strict=True):
        print(f"CPU at 25 ms, {name:<15}{part:>7.2f} ms an image")
    busy = sum(parts) / (os.cpu_count() or 1) / statistics.median(far)
    print(f"they kept the {os.cpu_count()} cores busy for {100 * busy:.0f} % of the time")
    ratios = [theirs / ours for theirs, ours in zip(peer, far, strict=True)]
    ratio = statistics.median(peer) / statistics.median(far)
    verdict = "kept" if ratio >= RATIO_LIMIT else "missed"
    print(
        f"ratio {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}), limit {RATIO_LIMIT:g}: ",
        end="",
    )
    print(verdict)
    return int(ratio < RATIO_LIMIT)


def server_cpu_seconds(endpoint: str) -> float:
    """Return how long the server has computed; 0 where it does not run on this machine."""
    seconds = 0.0
    for process in listening_on(urlsplit(endpoint).port or 80):
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def listening_on(port: int) -> list[Path]:
    """Return the folders in /proc of the processes that listen on a port of this machine."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()
    ]
    listening = "0A"
    sockets = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == listening and int(row[1].rpartition(":")[2], 16) == port
    }
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is not ours to look at
            if any(str(file.readlink()) in sockets for file in (process / "fd").iterdir()):
                found.append(process)
    return found


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
        Bucket=bucket, Prefix="in/", PaginationConfig={"MaxItems": count, "PageSize": count}
    )
    seen, thumbnails, lines = set(), [], []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "shard.tar")
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for entry in (entry for page in pages for entry in page["Contents"]):
                name = entry["Key"].removeprefix("in/")
                content = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                with Image.open(io.BytesIO(content)) as header:
                    assert max(header.size) <= 10_000
                    assert header.getexif().get(0x0112, 1) == 1
                pixels = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
                gray = Image.fromarray(pixels).convert("L")
                thumbnails.append(np.asarray(gray.resize((32, 32), Image.Resampling.BOX)).ravel())
                seen.add(hashlib.sha256(pixels).hexdigest())
                digest = hashlib.sha256(content).hexdigest()
                group = name.partition("_")[0]
                share = int(hashlib.sha256(group.encode()).hexdigest(), 16) / 2**256
                split = "test" if share < 0.2 else "val" if share < 0.35 else "train"
                member = tarfile.TarInfo(f"{digest}.jpg")
                member.size = len(content)
                place = archive.fileobj.tell()  # type: ignore[union-attr]
                archive.addfile(member, io.BytesIO(content))
                sample = {"name": name, "group": group, "split": split, "sha256": digest}
                sample |= {"offset_bytes": place + tarfile.BLOCKSIZE, "size_bytes": len(content)}
                lines.append(json.dumps(sample))
        target = f"peer/{uuid.uuid4().hex}"
        client.upload_file(str(path), bucket, f"{target}.tar")
        alike = np.argwhere(np.triu(np.corrcoef(np.stack(thumbnails)) > 0.99, 1))
        client.put_object(Bucket=bucket, Key=f"{target}.jsonl", Body="\n".join(lines).encode())
        client.put_object(Bucket=bucket, Key=f"{target}.json", Body=json.dumps(alike.tolist()))
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
