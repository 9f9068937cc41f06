"""Large, growing and damaged sets, crashes, full disks and buckets: what prepare leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sightline.prepare.run as steps
from sightline.data import open_dataset
from sightline.errors import UserError
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run
from sightline.prepare.window import map_in_window
from sightline.steps import COMMANDS
from sightline.storage.local import LocalStorage

BY_GROUP = PrepareConfig(group_pattern=r"(p\d+)_")
# Kills its process in the middle of its n-th write: the bytes are there, the name is not yet.
KILLED = """
import os, signal, sys
writes = iter(range(1000))  # the first, number 0, says that the step has begun
def kill_or(put):
    def kill_or_put(partial, path):
        if next(writes) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return put(partial, path)
    return kill_or_put
os.replace, os.link = kill_or(os.replace), kill_or(os.link)
from sightline.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
# Kills its process before its n-th write to a bucket is sent.
KILLED_ON_S3 = """
import os, signal, sys
from sightline.storage.s3 import S3Storage
send, writes = S3Storage._send, iter(range(1000))
def kill_or_send(self, access, *arguments):
    if access == "write" and next(writes) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return send(self, access, *arguments)
S3Storage._send = kill_or_send
from sightline.__main__ import main
sys.exit(main(sys.argv[2:]))
"""

# Waits, once it has begun, until its twin has begun, too.
TWIN = """
import sys
import sightline.prepare.run as steps
find_folders = steps.find_folders
def meet_and_find_folders(*arguments):
    print("begun", flush=True)
    sys.stdin.readline()
    return find_folders(*arguments)
steps.find_folders = meet_and_find_folders
from sightline.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path_factory, monkeypatch):
    # What other runs on this machine have left there is told, and removed, by the next one.
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))


def run_twins(uris, together):
    """Run the step in two processes that begin before either ends, and return how they ended."""
    arguments = [sys.executable, "-c", TWIN, *command(uris)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    twins = [subprocess.Popen(arguments, **pipes) for _ in range(2)]
    assert [twin.stdout.readline() for twin in twins] == ["begun\n", "begun\n"]
    # Either both go on now, or the second when the first has published everything.
    if together:
        for twin in twins:
            twin.stdin.write("go on\n")
            twin.stdin.flush()
    for twin in twins:
        twin.communicate(None if together else "go on\n")
    return [twin.returncode for twin in twins]


def make_tree(folder, count, start=0, side=16):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number // 2:05d}_{number}.png")
    return folder


def uris(root, images, out="out"):
    return PrepareUris(images_uri=str(images), store_uri=f"{root}/store", out_uri=f"{root}/{out}")


def command(uris):
    flags = {"images-uri": uris.images_uri, "store-uri": uris.store_uri, "out-uri": uris.out_uri}
    return ["prepare", *(f"--{name}={value}" for name, value in flags.items())]


def versions(store):
    return sorted(path.parent.name for path in Path(store).glob("*/manifest.json"))


def stored_keys(server, bucket_uri):
    listed = server.client().list_objects_v2(Bucket=bucket_uri.removeprefix("s3://"))
    return {entry["Key"] for entry in listed["Contents"]}


def test_results_come_in_order_and_few_items_are_under_way():
    taken = []

    def items():
        for number in range(200):
            taken.append(number)
            yield number

    for place, result in enumerate(map_in_window(lambda n: 2 * n, items(), threads=3)):
        assert result == 2 * place
        assert len(taken) <= place + 1 + 4 * 3


def test_large_items_are_under_way_one_by_one():
    taken = []
    items = (taken.append(number) or number for number in range(5))
    for place, _ in enumerate(map_in_window(str, items, 4, size_bytes=lambda _: 300 * 2**20)):
        assert len(taken) <= place + 2


def test_error_of_a_thread_ends_the_stream():
    with pytest.raises(ZeroDivisionError):
        list(map_in_window(lambda n: 1 // n, iter([2, 1, 0, 1]), threads=2))


def test_memory_stays_flat_when_the_set_grows(tmp_path, monkeypatch):
    peaks = []

    # Thumbnails are compared in blocks larger than these sets, which has a test of its own.
    def compare_untraced(catalogue, compare=steps.compare_thumbnails):
        peaks.append(tracemalloc.get_traced_memory()[1])
        found = compare(catalogue)
        tracemalloc.reset_peak()
        return found

    monkeypatch.setattr(steps, "compare_thumbnails", compare_untraced)

    def peak_bytes(count):
        images = make_tree(tmp_path / f"{count}", count, side=8)
        found = []
        # The smallest of three: a thread that stores a shard holds a megabyte now and then.
        for again in range(3):
            tracemalloc.start()
            steps.run(uris(tmp_path, images, out=f"out-{count}-{again}"), BY_GROUP)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            found.append(max(peaks.pop(), peaks.pop()))
        return min(found)

    peak_bytes(20)  # whatever is loaded once
    # 600 more pictures: a thumbnail of each alone would be 600 KB.
    assert peak_bytes(800) < peak_bytes(200) + 600_000


def test_grown_set_keeps_every_group_in_its_split_and_the_old_version_readable(tmp_path):
    images = make_tree(tmp_path / "images", 60)
    old = open_dataset(run(uris(tmp_path, images), BY_GROUP)["datasets"]["images"])
    before = {sample.group: sample.split for sample in old.samples}
    make_tree(images, 100, start=60)
    new = open_dataset(run(uris(tmp_path, images, "out-2"), BY_GROUP)["datasets"]["images"])
    after = {sample.group: sample.split for sample in new.samples}
    assert len(after) == 80
    assert {group: after[group] for group in before} == before
    assert len(list(old.iter_bytes())) == 60


@pytest.mark.parametrize("together", [True, False])
def test_two_runs_at_once_leave_one_version_and_both_end_well(tmp_path, together):
    images = make_tree(tmp_path / "images", 40)
    assert run_twins(uris(tmp_path, images), together) == [0, 0]
    [version] = versions(tmp_path / "store")
    assert len(open_dataset(str(tmp_path / "store" / version))) == 40
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["datasets"]["images"].endswith(version)


def test_run_killed_at_any_write_leaves_nothing_half_made_and_the_next_one_succeeds(
    tmp_path, monkeypatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    images = make_tree(tmp_path / "images", 24)
    old = run(uris(tmp_path, images), PrepareConfig())["datasets"]["images"]
    make_tree(images, 6, start=24)
    finished = []
    for write in range(1, 100):
        place = tmp_path / f"killed-at-{write}"
        shutil.copytree(tmp_path / "store", place / "store")
        addresses = uris(place, images)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(write), *command(addresses)],
            capture_output=True,
            check=False,
        )
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert list(scratch.iterdir())
        assert not (place / "out" / "artifacts.json").exists()
        assert len(list(open_dataset(f"{place}/store/{Path(old).name}").iter_bytes())) == 24
        finished.append(len(versions(place / "store")))
        before = len(list((tmp_path / "store" / "shards").iterdir()))
        metrics = COMMANDS["prepare"].execute(addresses, PrepareConfig())
        dataset = open_dataset(metrics["datasets"]["images"])
        assert len(list(dataset.iter_bytes())) == 30
        assert not list(scratch.iterdir())
        assert len(versions(place / "store")) == 2
        after = len(list((place / "store" / "shards").iterdir()))
    # New shards, samples, manifest; then three files of the step and their list.
    assert finished == [1] * (after - before + 2) + [2] * 4


def test_next_run_reuses_the_shards_of_one_that_was_killed(tmp_path):
    images = make_tree(tmp_path / "images", 40)
    arguments = command(uris(tmp_path, images))
    # The three shards are written first.
    subprocess.run([sys.executable, "-c", KILLED, "4", *arguments], check=False)
    shards = {path: path.stat().st_ino for path in (tmp_path / "store" / "shards").glob("*.tar")}
    assert len(shards) == 3
    assert versions(tmp_path / "store") == []
    dataset = open_dataset(run(uris(tmp_path, images), PrepareConfig())["datasets"]["images"])
    assert len(dataset) == 40
    assert {
        path: path.stat().st_ino for path in (tmp_path / "store" / "shards").iterdir()
    } == shards


def test_bucket_gives_the_version_that_a_folder_gives(tmp_path, s3_bucket, s3_server):
    images = make_tree(tmp_path / "images", 40)
    client = s3_server.client()
    for path in images.iterdir():
        client.upload_file(str(path), s3_bucket.removeprefix("s3://"), f"in/{path.name}")
    local = run(uris(tmp_path, images), BY_GROUP)
    remote = run(uris(s3_bucket, f"{s3_bucket}/in"), BY_GROUP)
    dataset = open_dataset(remote["datasets"]["images"])
    assert dataset.uri.startswith(f"{s3_bucket}/store/")
    assert dataset.digest == open_dataset(local["datasets"]["images"]).digest
    assert len(list(dataset.iter_bytes())) == 40
    assert {**remote, "datasets": None} == {**local, "datasets": None}


@pytest.mark.parametrize("together", [True, False])
def test_two_runs_at_once_into_a_bucket_leave_one_version(tmp_path, s3_bucket, s3_server, together):
    images = make_tree(tmp_path / "images", 30)
    assert run_twins(uris(s3_bucket, images), together) == [0, 0]
    keys = stored_keys(s3_server, s3_bucket)
    [manifest] = [key for key in keys if key.endswith("/manifest.json")]
    dataset = open_dataset(f"{s3_bucket}/{manifest.removesuffix('/manifest.json')}")
    assert len(list(dataset.iter_bytes())) == 30


def test_run_into_a_bucket_that_is_killed_leaves_nothing_half_made(tmp_path, s3_bucket, s3_server):
    images = make_tree(tmp_path / "images", 24)
    old = run(uris(s3_bucket, images), PrepareConfig())["datasets"]["images"]
    make_tree(images, 6, start=24)
    killed = 0
    for write in range(2, 100, 3):
        addresses = uris(s3_bucket, images, out=f"killed-at-{write}")
        ended = subprocess.run(
            [sys.executable, "-c", KILLED_ON_S3, str(write), *command(addresses)],
            capture_output=True,
            check=False,
        )
        if ended.returncode == 0:
            break
        killed += 1
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        keys = stored_keys(s3_server, s3_bucket)
        assert f"killed-at-{write}/artifacts.json" not in keys
        assert len(list(open_dataset(old).iter_bytes())) == 24
        for key in keys:
            if key.startswith("store/") and key.endswith("/manifest.json"):
                dataset = open_dataset(f"{s3_bucket}/{key.removesuffix('/manifest.json')}")
                assert len(list(dataset.iter_bytes())) in (24, 30)
    assert killed >= 2
    metrics = run(uris(s3_bucket, images, out="last"), PrepareConfig())
    assert len(list(open_dataset(metrics["datasets"]["images"]).iter_bytes())) == 30


def test_labels_boxes_and_a_table_are_read_from_a_bucket(tmp_path, s3_bucket, s3_server):
    client, bucket = s3_server.client(), s3_bucket.removeprefix("s3://")
    rows = ["name,split"]
    for path in make_tree(tmp_path / "images", 12).iterdir():
        client.upload_file(str(path), bucket, f"boxes/images/{path.name}")
        text = b"0 0.5 0.5 0.25 0.25\n"
        client.put_object(Bucket=bucket, Key=f"boxes/labels/{path.stem}.txt", Body=text)
        rows.append(f"{path.name},{('train', 'val', 'test')[len(rows) % 3]}")
    client.put_object(Bucket=bucket, Key="boxes/data.yaml", Body=b"names: [ring]")
    client.put_object(Bucket=bucket, Key="table.csv", Body="\n".join(rows).encode())
    metrics = run(
        PrepareUris(
            boxes_uri=f"{s3_bucket}/boxes",
            table_uri=f"{s3_bucket}/table.csv",
            store_uri=f"{s3_bucket}/store",
            out_uri=f"{s3_bucket}/out",
        ),
        PrepareConfig(),
    )
    assert [metrics["counts"]["boxes"][s]["images"] for s in ("train", "val", "test")] == [4, 4, 4]
    assert metrics["counts"]["boxes"]["train"]["classes"] == {"ring": 4}


def test_one_damaged_image_in_a_hundred_is_listed(tmp_path):
    images = make_tree(tmp_path / "images", 100)
    (images / "p00007_14.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    metrics = run(uris(tmp_path, images), BY_GROUP)
    assert [entry["name"] for entry in metrics["rejected"]] == ["p00007_14.png"]
    assert metrics["counts"]["images"]["images"] == 99


def test_half_of_the_images_damaged_publishes_nothing(tmp_path):
    images = make_tree(tmp_path / "images", 40)
    for path in sorted(images.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(
        UserError, match=r"at least 3 of 40 images of images_uri .* are rejected, more than"
    ):
        run(uris(tmp_path, images), BY_GROUP)
    assert versions(tmp_path / "store") == []
    assert not (tmp_path / "out").exists()


def test_reading_stops_once_too_many_are_bad_whatever_the_others_are(tmp_path, monkeypatch):
    images = make_tree(tmp_path / "images", 2000)
    for path in images.iterdir():
        path.write_bytes(b"")
    asked = []
    read_bytes = LocalStorage.read_bytes

    def count(storage, key, *arguments):
        asked.append(key)
        return read_bytes(storage, key, *arguments)

    monkeypatch.setattr(LocalStorage, "read_bytes", count)
    # 100 of 2,000 are allowed, the 101st is one too many; some more are under way by then.
    with pytest.raises(UserError, match="at least 101 of 2000 images"):
        run(uris(tmp_path, images), BY_GROUP)
    assert len(asked) < 1000


@pytest.mark.parametrize("limit_bytes", [3_000, 60_000])
def test_full_disk_is_one_clear_line_and_publishes_nothing(tmp_path, limit_bytes):
    images = make_tree(tmp_path / "images", 400)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    ended = subprocess.run(
        [sys.executable, "-m", "sightline", *command(uris(tmp_path, images))],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "is full" in ended.stderr
    assert "name another folder by TMPDIR" in ended.stderr
    assert versions(tmp_path / "store") == []
    assert not (tmp_path / "out").exists()
