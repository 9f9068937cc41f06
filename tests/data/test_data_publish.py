"""Publishing a version: content first, the manifest last, whoever dies or writes beside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.data import open_dataset, publish, publish_dataset, write_dataset
from sightline.data.publish import range_size_bytes
from sightline.data.samples import Sample
from sightline.data.shards import PackedImage, ShardWriter
from sightline.errors import UserError
from sightline.storage import NotFoundError, open_storage
from sightline.storage.local import LocalStorage

# Writes 40 images of 3,000 bytes, two a shard; at the image of its second argument it says so
# and waits for a line.
WRITER = """
import sys
from sightline.data import write_dataset
from sightline.data.shards import PackedImage, ShardWriter
add, store, stop = ShardWriter.add, sys.argv[1], int(sys.argv[2])
calls = iter(range(1_000_000))
def add_and_stop(self, content, suffix):
    if next(calls) == stop:
        print("here", flush=True)
        sys.stdin.readline()
    return add(self, content, suffix)
ShardWriter.add = add_and_stop
images = [
    PackedImage(bytes([n]) * 3000, "png", f"{n:02d}.png", f"g{n}", "train", 1, 1) for n in range(40)
]
print(write_dataset(images, store, kind="images", shard_size_bytes=8192))
"""


def start_writer(store, stop):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def packed(number, **known):
    content = known.pop("content", bytes([number]) * 3000)
    return PackedImage(content, "png", f"{number:02d}.png", f"g{number}", "train", 1, 1, **known)


def forty():
    return [packed(number) for number in range(40)]


def sample_of(member, number, split="train"):
    name = f"{number:02d}.png"
    return Sample(name, name, split, member.sha256, *member[:3], width=1, height=1)


def publish_all(store, shards, samples):
    counts = {"images": len(samples)}
    settings = {"kind": "images", "classes": (), "counts": counts, "groups": len(samples)}
    return publish_dataset(str(store), shards=shards, samples=samples, **settings)


def versions(store):
    return sorted(path.parent.name for path in Path(store).glob("*/manifest.json"))


def test_writer_killed_in_the_middle_leaves_the_old_version_and_shards_for_the_next(tmp_path):
    old = write_dataset([packed(99)], str(tmp_path), kind="images")
    writer = start_writer(tmp_path, stop=30)
    assert writer.stdout.readline() == "here\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert versions(tmp_path) == [Path(old).name]
    assert open_dataset(old).read_bytes(0) == bytes([99]) * 3000
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    # 30 images fill 15 shards; the last may have been on its way.
    assert 1 + 13 <= len(left) <= 1 + 15
    new = write_dataset(forty(), str(tmp_path), kind="images", shard_size_bytes=8192)
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert versions(tmp_path) == sorted([Path(old).name, Path(new).name])
    assert sorted(open_dataset(new).iter_bytes()) == [bytes([n]) * 3000 for n in range(40)]


def test_two_processes_that_write_the_same_images_both_end_with_one_version(tmp_path):
    writers = [start_writer(tmp_path, stop=20) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "here\n"
    ended = []
    for writer in writers:
        writer.stdin.write("go on\n")
        writer.stdin.flush()
    for writer in writers:
        ended.append(writer.communicate()[0].strip())
        assert writer.returncode == 0
    assert ended[0] == ended[1]
    assert versions(tmp_path) == [Path(ended[0]).name]
    assert sorted(open_dataset(ended[0]).iter_bytes()) == [bytes([n]) * 3000 for n in range(40)]


def test_threads_that_write_the_same_images_into_a_bucket_end_with_one_version(s3_bucket):
    store = f"{s3_bucket}/datasets"
    meet = threading.Barrier(3)

    def write(_):
        meet.wait()
        return write_dataset(forty(), store, kind="images", shard_size_bytes=30_000)

    with ThreadPoolExecutor(3) as pool:
        uris = set(pool.map(write, range(3)))
    assert len(uris) == 1
    keys = [entry.key for entry in open_storage(store).list()]
    assert sum(key.endswith("manifest.json") for key in keys) == 1
    assert sorted(open_dataset(uris.pop()).iter_bytes()) == [bytes([n]) * 3000 for n in range(40)]


def test_version_that_lacks_its_manifest_is_none(tmp_path, monkeypatch):
    def die(self, key, content, expected):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStorage, "write_if_unchanged", die)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(forty(), str(tmp_path), kind="images")
    monkeypatch.undo()
    [listing] = tmp_path.glob("*/samples.jsonl")
    with pytest.raises(NotFoundError, match="no data set version under"):
        open_dataset(str(listing.parent))
    assert write_dataset(forty(), str(tmp_path), kind="images") == str(listing.parent)


def test_what_is_older_than_half_a_day_is_written_again_to_be_spared_as_new(tmp_path):
    uri = write_dataset([packed(1)], str(tmp_path), kind="images")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(files) == 3
    long_ago = time.time() - 13 * 3600
    for path in files:
        os.utime(path, (long_ago, long_ago))
    assert write_dataset([packed(1)], str(tmp_path), kind="images") == uri
    for path, content in files.items():
        assert path.read_bytes() == content
        assert path.stat().st_mtime > long_ago + 3600


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_damaged_list_of_samples_is_mended_by_the_same_images(damage, tmp_path):
    uri = write_dataset([packed(1)], str(tmp_path), kind="images")
    listing = Path(uri, "samples.jsonl")
    whole = listing.read_bytes()
    if damage == "gone":
        listing.unlink()
    else:
        listing.write_bytes(whole.replace(b"train", b"trail"))
    with pytest.raises(UserError, match=r"samples.jsonl .*prepare"):
        len(open_dataset(uri).samples)
    assert write_dataset([packed(1)], str(tmp_path), kind="images") == uri
    assert listing.read_bytes() == whole


def test_altered_manifest_is_never_overwritten(tmp_path):
    uri = write_dataset([packed(1)], str(tmp_path), kind="images")
    manifest = Path(uri, "manifest.json")
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"manifest.json was altered: delete"):
        write_dataset([packed(1)], str(tmp_path), kind="images")


def test_version_may_name_shards_that_other_versions_wrote(tmp_path):
    written = []
    for numbers in (range(4), range(4, 8)):
        with ShardWriter(str(tmp_path)) as writer:
            members = [writer.add(bytes([n]) * 500, "png") for n in numbers]
            [shard] = writer.close()
        written.append((shard, members))
        samples = [sample_of(m, n) for m, n in zip(members, numbers, strict=True)]
        publish_all(tmp_path, [shard], samples)
    # The second, third, fifth and eighth image, as a union that holds others out.
    chosen = [(0, 1), (0, 2), (1, 0), (1, 3)]
    samples = [
        replace(sample_of(written[place][1][n], 4 * place + n), shard=place) for place, n in chosen
    ]
    uri = publish_all(tmp_path, [shard for shard, _ in written], samples)
    assert list(open_dataset(uri).iter_bytes()) == [bytes([n]) * 500 for n in (1, 2, 4, 7)]
    assert len(list((tmp_path / "shards").iterdir())) == 2


def test_version_of_shards_that_are_not_there_is_refused(tmp_path):
    with ShardWriter(str(tmp_path)) as writer:
        member = writer.add(b"bytes", "png")
        [shard] = writer.close()
    (tmp_path / shard.name).unlink()
    with pytest.raises(
        UserError, match=r"1 shards are gone from .* such as shards/.*prepare again"
    ):
        publish_all(tmp_path, [shard], [sample_of(member, 0)])
    assert versions(tmp_path) == []


def test_samples_out_of_order_are_refused(tmp_path):
    with ShardWriter(str(tmp_path)) as writer:
        members = [writer.add(content, "png") for content in (b"first", b"second")]
        shards = writer.close()
    samples = [sample_of(members[1], 1), sample_of(members[0], 0)]
    with pytest.raises(ValueError, match=r"ordered by shard and offset: 00.png"):
        publish_all(tmp_path, shards, samples)


def test_ranges_tile_the_members_and_count_each_split(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_MIN_RANGE_BYTES", 4096)
    with ShardWriter(str(tmp_path)) as writer:
        # Members of 1,536 bytes with header and padding: two fit into 4,096.
        members = [writer.add(bytes([n]) * 1000, "png") for n in range(5)]
        shards = writer.close()
    splits = ["train", "train", "val", "train", "test"]
    samples = [sample_of(m, n, splits[n]) for n, m in enumerate(members)]
    # A second image of equal bytes lies in the range of the first.
    samples.insert(2, sample_of(members[1], 9))
    [shard] = open_dataset(publish_all(tmp_path, shards, samples)).manifest["shards"]
    places = [tuple(entry[:5]) for entry in shard["ranges"]]
    assert places == [(0, 3072, 3, 0, 0), (3072, 3072, 1, 1, 0), (6144, 1536, 0, 0, 1)]
    assert sum(entry[5] for entry in shard["ranges"]) == shard["samples"][1]


@pytest.mark.parametrize(
    ("total", "expected"),
    [(0, 2**21), (2**35, 2**21), (2**36, 2**22), (2**43, 2**23), (2**46, 2**26)],
)
def test_range_is_a_16384th_of_the_whole_within_its_bounds(total, expected):
    assert range_size_bytes(total) == expected


def test_scratch_folder_never_holds_more_than_two_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    most = 0
    with ShardWriter(str(tmp_path / "store"), shard_size_bytes=10_000) as writer:
        for number in range(100):
            writer.add(bytes([number]) * 2000, "png")
            scratch = (tmp_path / "scratch").rglob("*.tar")
            most = max(most, len(list(scratch)))
        assert len(writer.close()) == 34  # three members of 2,560 bytes each, and 1,024 at the end
    assert most <= 2
    assert list((tmp_path / "scratch").iterdir()) == []


def test_failed_upload_reaches_the_writer_as_its_own_error(tmp_path, monkeypatch):
    def refuse(self, source, key):
        raise UserError("the bucket is read-only")

    monkeypatch.setattr(LocalStorage, "upload", refuse)
    with ShardWriter(str(tmp_path)) as writer:
        writer.add(b"bytes", "png")
        with pytest.raises(UserError, match="the bucket is read-only"):
            writer.close()
