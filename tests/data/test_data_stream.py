"""Streaming training images: complete, verified, resumable, and never more than was asked for."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sightline.data import open_dataset, publish, write_dataset
from sightline.data.shards import PackedImage
from sightline.data.stream import ArrayStream, ImageStream
from sightline.errors import UserError
from sightline.images import decode_image
from sightline.storage import StorageUnavailableError, open_storage
from sightline.storage.local import LocalStorage

IMAGES = 300
IMAGE_BYTES = 1_500
"""A member then takes 2,048 bytes with its header."""


@pytest.fixture(scope="module")
def many_ranges(tmp_path_factory):
    """Return the address of 300 images in 5 shards of at most 64 members, 4 a range."""
    random = np.random.default_rng(0)
    images = [
        PackedImage(
            content=random.bytes(IMAGE_BYTES),
            suffix="png",
            name=f"{number:03d}.png",
            group=f"g{number % 50}",
            split="val" if number % 6 == 5 else "train",
            width=1,
            height=1,
        )
        for number in range(IMAGES)
    ]
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "_MIN_RANGE_BYTES", 4 * 2048)
        return write_dataset(images, str(store), kind="images", shard_size_bytes=64 * 2048 + 1024)


@pytest.fixture
def requests(monkeypatch):
    """Return a list that gets (key, start, size) of every read from now on."""
    asked = []
    read_bytes = LocalStorage.read_bytes

    def read_and_note(self, key, start=0, size_bytes=None):
        asked.append((key, start, size_bytes))
        return read_bytes(self, key, start, size_bytes)

    monkeypatch.setattr(LocalStorage, "read_bytes", read_and_note)
    return asked


def open_stream(uri, **changes):
    settings = {"batch_size": 16, "seed": 0, "lanes": 4, "mix_bytes": 2 * 4 * 8192} | changes
    return ImageStream(open_dataset(uri), **settings)


def indices(batches):
    return [[image.index for image in batch] for batch in batches]


def test_data_set_of_the_tests_has_ranges_to_mix(many_ranges):
    shards = open_dataset(many_ranges).manifest["shards"]
    assert [shard["count"] for shard in shards] == [64, 64, 64, 64, 44]
    assert [len(shard["ranges"]) for shard in shards] == [16, 16, 16, 16, 11]


def test_epoch_brings_every_training_image_once_with_its_own_bytes(many_ranges):
    dataset = open_dataset(many_ranges)
    train = dataset.split("train")
    stream = open_stream(many_ranges)
    assert (stream.images, stream.steps_per_epoch) == (250, 15)  # 15 * 16 = 240, 10 are left over
    for epoch in (1, 2):
        images = list(itertools.chain.from_iterable(stream.batches(epoch)))
        assert len({image.index for image in images}) == len(images) == 240
        for image in images:
            assert image.sample == train.samples[image.index]
            assert hashlib.sha256(image.content).hexdigest() == image.sample.sha256


def test_samples_of_all_epochs_together_are_those_of_the_manifest(many_ranges):
    # Batches of one image leave no rest.
    stream = open_stream(many_ranges, batch_size=1)
    seen = Counter(
        image.sample.name
        for epoch in range(2)
        for batch in stream.batches(epoch)
        for image in batch
    )
    names = [sample.name for sample in open_dataset(many_ranges).split("train").samples]
    assert seen == dict.fromkeys(names, 2)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_batches(many_ranges, world_size):
    whole = [sorted(batch) for batch in indices(open_stream(many_ranges).batches(5))]
    ranks = [
        indices(open_stream(many_ranges).batches(5, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == whole


def test_eight_ranks_share_eight_lanes(many_ranges):
    stream = open_stream(many_ranges, lanes=8, mix_bytes=8 * 8192)
    whole = [sorted(batch) for batch in indices(stream.batches(0))]
    ranks = [stream.batches(0, rank=rank, world_size=8) for rank in range(8)]
    together = [
        sorted(image.index for part in parts for image in part)
        for parts in zip(*ranks, strict=True)
    ]
    assert together == whole


def test_processes_that_cannot_share_the_lanes_are_refused(many_ranges):
    stream = open_stream(many_ranges, batch_size=12, lanes=8)
    assert stream.lanes == 4
    with pytest.raises(UserError, match="divide the 4 lanes that images are read in, got 3"):
        stream.batches(0, world_size=3)


@pytest.mark.parametrize("step", [1, 7, 14])
def test_resume_continues_the_epoch_and_reads_nothing_that_lies_before(many_ranges, requests, step):
    whole = list(open_stream(many_ranges).batches(3))
    stream = open_stream(many_ranges)
    requests.clear()
    rest = list(stream.batches(3, start_step=step))
    assert rest == whole[step:]
    # Each of the ranges that the rest needs costs its lines and its images, once.
    asked = len(requests)
    per_range = range_of_each_image(many_ranges)
    needed = {per_range[image.index] for batch in rest for image in batch}
    assert asked == 2 * len(needed)
    if step == 14:
        assert len(needed) <= 16


def range_of_each_image(uri):
    shards = open_dataset(uri).manifest["shards"]
    counts = [entry[2] for shard in shards for entry in shard["ranges"]]
    return np.repeat(np.arange(len(counts)), counts).tolist()


def test_second_epoch_of_a_set_that_fits_reads_nothing(many_ranges, requests):
    stream = open_stream(many_ranges, batch_size=1)
    list(stream.batches(1))
    requests.clear()
    list(stream.batches(2))
    assert requests == []


def test_small_cache_changes_what_is_held_and_not_the_order(many_ranges):
    # Threads enough to begin all reads at once, if the cache did not limit them.
    stream = open_stream(many_ranges, cache_bytes=6 * 8192, threads=64)
    expected = indices(open_stream(many_ranges).batches(1))
    cache = stream._cache
    found, most_held = [], 0
    for batch in stream.batches(1):
        found.append([image.index for image in batch])
        most_held = max(most_held, cache.held_bytes)
    assert found == expected
    # A batch takes 4 images from each of 4 lanes: 16 ranges at most, of 8 KiB.
    assert most_held <= 16 * 8192


def test_caller_who_stops_early_leaves_nothing_pinned(many_ranges):
    stream = open_stream(many_ranges)
    batches = stream.batches(1)
    next(batches)
    batches.close()
    assert stream._cache.pinned_bytes == 0
    assert len(list(stream.batches(1))) == 15


@pytest.mark.parametrize("whole", [True, False])
def test_no_thread_outlives_the_batches(whole, many_ranges):
    batches = open_stream(many_ranges, threads=3).batches(1)
    next(batches)
    readers = [one for one in threading.enumerate() if one.name.startswith("range-reader")]
    assert readers
    if whole:
        list(batches)
    batches.close()
    for reader in readers:
        reader.join(10)
    assert not any(reader.is_alive() for reader in readers)


def test_two_readers_of_one_stream_do_not_stop_each_other(many_ranges):
    stream = open_stream(many_ranges, threads=2)
    expected = indices(stream.batches(1))
    first, second = stream.batches(1), stream.batches(1)
    found = [[image.index for image in next(second)]]
    next(first)
    first.close()
    assert found + indices(second) == expected


def test_ranges_are_read_by_as_many_threads_as_were_asked_for(many_ranges, monkeypatch):
    # The first three reads wait for each other; with fewer threads they would in vain.
    together, calls = threading.Barrier(3), itertools.count()
    read_bytes = LocalStorage.read_bytes

    def meet_others(self, key, start=0, size_bytes=None):
        if next(calls) < 3:
            together.wait(5)
        return read_bytes(self, key, start, size_bytes)

    stream = open_stream(many_ranges, threads=3)
    monkeypatch.setattr(LocalStorage, "read_bytes", meet_others)
    assert len(list(stream.batches(1))) == 15


def test_fault_while_reading_ahead_reaches_the_caller_as_itself(many_ranges, monkeypatch):
    stream = open_stream(many_ranges)
    expected = indices(open_stream(many_ranges).batches(1))
    read_bytes = LocalStorage.read_bytes
    calls = itertools.count()

    def fail_at_the_fiftieth(self, key, start=0, size_bytes=None):
        if next(calls) == 50:
            raise OSError("the disk is gone")
        return read_bytes(self, key, start, size_bytes)

    monkeypatch.setattr(LocalStorage, "read_bytes", fail_at_the_fiftieth)
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream.batches(1))
    # What failed is not remembered: the next try reads it again.
    assert indices(stream.batches(1)) == expected


def test_range_that_was_altered_on_its_way_is_read_once_more(many_ranges, monkeypatch):
    expected = indices(open_stream(many_ranges).batches(0))
    read_bytes = LocalStorage.read_bytes
    seen = set()

    def flip_a_bit_the_first_time(self, key, start=0, size_bytes=None):
        content = read_bytes(self, key, start, size_bytes)
        if not key.endswith(".tar") or start in seen:
            return content
        seen.add(start)
        return bytes([content[0] ^ 1]) + content[1:]

    monkeypatch.setattr(LocalStorage, "read_bytes", flip_a_bit_the_first_time)
    assert indices(open_stream(many_ranges).batches(0)) == expected
    assert seen


def test_epochs_end_though_one_read_in_ten_is_damaged(many_ranges, monkeypatch):
    expected = indices(open_stream(many_ranges).batches(1))
    read_bytes, random = LocalStorage.read_bytes, np.random.default_rng(0)

    def damage_some(self, key, start=0, size_bytes=None):
        content = read_bytes(self, key, start, size_bytes)
        damaged = random.random() < 0.1 and not key.endswith("manifest.json")
        return bytes([255 - content[0]]) + content[1:] if damaged else content

    monkeypatch.setattr(LocalStorage, "read_bytes", damage_some)
    for _ in range(10):
        assert indices(open_stream(many_ranges).batches(1)) == expected


def test_bytes_that_differ_at_each_read_are_not_called_altered(many_ranges, monkeypatch):
    read_bytes, numbers = LocalStorage.read_bytes, itertools.count()

    def damage_anew(self, key, start=0, size_bytes=None):
        content = read_bytes(self, key, start, size_bytes)
        if not key.endswith(".tar"):
            return content
        return next(numbers).to_bytes(8, "big") + content[8:]

    stream = open_stream(many_ranges, threads=1)
    monkeypatch.setattr(LocalStorage, "read_bytes", damage_anew)
    with pytest.raises(StorageUnavailableError, match="altered in different ways") as told:
        list(stream.batches(1))
    assert "delete" not in str(told.value)


def test_wrong_bytes_of_the_right_length_are_refused(many_ranges, monkeypatch):
    read_bytes = LocalStorage.read_bytes

    def flip_a_bit(self, key, start=0, size_bytes=None):
        content = read_bytes(self, key, start, size_bytes)
        if not key.endswith(".tar"):
            return content
        return bytes([content[0] ^ 1]) + content[1:]

    monkeypatch.setattr(LocalStorage, "read_bytes", flip_a_bit)
    with pytest.raises(UserError, match=r"\.png in .*\.tar was altered: expected sha256"):
        next(open_stream(many_ranges).batches(0))


def test_altered_split_of_a_sample_is_refused(many_ranges, tmp_path):
    copied = Path(tmp_path, "store")
    source = Path(many_ranges)
    for path in source.parent.rglob("*.*"):
        target = copied / path.relative_to(source.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    listing = copied / source.name / "samples.jsonl"
    listing.write_bytes(listing.read_bytes().replace(b'"split":"val"', b'"split":"wal"'))
    with pytest.raises(UserError, match=r"samples.jsonl was altered"):
        list(open_stream(str(copied / source.name)).batches(0))


def test_set_without_images_of_the_split_has_no_step(many_ranges):
    stream = open_stream(many_ranges, split="test")
    assert (stream.images, stream.steps_per_epoch) == (0, 0)
    assert list(stream.batches(1)) == []


def test_images_come_from_a_bucket_as_from_a_folder(many_ranges, s3_bucket):
    bucket = open_storage(f"{s3_bucket}/store")
    source = Path(many_ranges)
    for path in source.parent.rglob("*.*"):
        bucket.upload(path, path.relative_to(source.parent).as_posix())
    expected = list(open_stream(many_ranges).batches(1))
    assert list(open_stream(f"{s3_bucket}/store/{source.name}").batches(1)) == expected


def test_arrays_in_memory_come_in_batches_of_the_same_form():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (5, 4 + i % 3, 3), dtype=np.uint8) for i in range(50)]
    stream = ArrayStream(arrays, [f"g{i}" for i in range(50)], batch_size=8, seed=0)
    images = list(itertools.chain.from_iterable(stream.batches(1)))
    assert len({image.index for image in images}) == 48
    for image in images:
        np.testing.assert_array_equal(decode_image(image.content), arrays[image.index])
        assert image.sample.group == f"g{image.index}"
    halves = [indices(stream.batches(1, rank=rank, world_size=2)) for rank in range(2)]
    whole = [sorted(batch) for batch in indices(stream.batches(1))]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == whole
    with pytest.raises(ValueError, match="each image needs a group: 50 images, 1 groups"):
        ArrayStream(arrays, ["g"], batch_size=8, seed=0)
