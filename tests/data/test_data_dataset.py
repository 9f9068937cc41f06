"""Reading a version in order: together, ahead, verified, and in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sightline.data import open_dataset, write_dataset
from sightline.data.publish import manifest_digest
from sightline.data.shards import PackedImage
from sightline.errors import UserError
from sightline.storage.local import LocalStorage


def packed(number, size_bytes=1000):
    content = number.to_bytes(2, "big") * (size_bytes // 2)
    return PackedImage(content, "png", f"{number:04d}.png", f"g{number}", "train", 1, 1)


@pytest.fixture
def asked(monkeypatch):
    """Return a list that gets the size of every read of a shard from now on."""
    sizes = []
    read_bytes = LocalStorage.read_bytes

    def read_and_note(self, key, start=0, size_bytes=None):
        if key.endswith(".tar"):
            sizes.append(size_bytes)
        return read_bytes(self, key, start, size_bytes)

    monkeypatch.setattr(LocalStorage, "read_bytes", read_and_note)
    return sizes


def test_neighbours_are_read_by_one_request(tmp_path, asked):
    images = [packed(number) for number in range(500)]
    dataset = open_dataset(write_dataset(images, str(tmp_path), kind="images"))
    contents = list(dataset.iter_bytes())
    by_name = {image.name: image.content for image in images}
    assert contents == [by_name[sample.name] for sample in dataset.samples]
    # 500 members of 1,536 bytes are less than 1 MiB.
    assert len(asked) == 1


def test_requests_stay_small_and_span_no_wide_gap(tmp_path, asked):
    images = [packed(number, size_bytes=100_000) for number in range(50)]
    dataset = open_dataset(write_dataset(images, str(tmp_path), kind="images"))
    assert list(dataset.iter_bytes()) == [dataset.read_bytes(place) for place in range(50)]
    # Five MB in requests of at most 1 MiB, ten images each, and then one by one.
    assert [size <= 2**20 for size in asked[:5]] == [True] * 5
    assert asked[5:] == [100_000] * 50
    asked.clear()
    ends = dataset.take([0, 49])
    assert list(ends.iter_bytes()) == [dataset.read_bytes(0), dataset.read_bytes(49)]
    assert asked == [100_000] * 4


def test_any_order_and_repetition_is_served(tmp_path):
    dataset = open_dataset(
        write_dataset([packed(n) for n in range(20)], str(tmp_path), kind="images")
    )
    places = [7, 7, 3, 19, 0, 4, 5, 6, 5]
    expected = [dataset.read_bytes(place) for place in places]
    assert list(dataset.take(places).iter_bytes()) == expected


def test_images_come_decoded_in_order(labelled_dataset):
    dataset = open_dataset(labelled_dataset).split("val")
    for place, image in enumerate(dataset.iter_images()):
        np.testing.assert_array_equal(image, dataset.read_image(place))
    assert place == len(dataset) - 1


def test_altered_bytes_are_refused_where_they_come(tmp_path):
    images = [packed(number) for number in range(30)]
    uri = write_dataset(images, str(tmp_path), kind="images")
    dataset = open_dataset(uri)
    [shard] = (tmp_path / "shards").iterdir()
    victim = dataset.samples[20]
    content = bytearray(shard.read_bytes())
    content[victim.offset_bytes] ^= 1
    shard.write_bytes(content)
    reading = dataset.take(range(20)).iter_bytes()
    assert len(list(reading)) == 20
    with pytest.raises(UserError, match=rf"{victim.name} in .*{shard.name} was altered"):
        list(dataset.iter_bytes())


def test_bytes_that_were_altered_on_their_way_are_read_once_more(tmp_path, monkeypatch):
    uri = write_dataset([packed(number) for number in range(30)], str(tmp_path), kind="images")
    expected = list(open_dataset(uri).iter_bytes())
    read_bytes = LocalStorage.read_bytes
    seen = set()

    def flip_a_bit_the_first_time(self, key, start=0, size_bytes=None):
        content = read_bytes(self, key, start, size_bytes)
        if (key, start) in seen:
            return content
        seen.add((key, start))
        return bytes([content[0] ^ 1]) + content[1:]

    monkeypatch.setattr(LocalStorage, "read_bytes", flip_a_bit_the_first_time)
    assert list(open_dataset(uri).iter_bytes()) == expected
    assert {key.rpartition(".")[2] for key, _ in seen} == {"json", "jsonl", "tar"}


def test_shard_that_is_gone_is_told_by_its_name(tmp_path):
    uri = write_dataset([packed(1)], str(tmp_path), kind="images")
    [shard] = (tmp_path / "shards").iterdir()
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        list(open_dataset(uri).iter_bytes())


def test_reader_who_stops_early_causes_few_reads(tmp_path, asked):
    images = [packed(number, size_bytes=600_000) for number in range(64)]
    dataset = open_dataset(write_dataset(images, str(tmp_path), kind="images"))
    reading = dataset.iter_bytes()
    next(reading)
    reading.close()
    # Each image is a request of its own; twice the store's parallel requests go ahead.
    assert len(asked) <= 2 * LocalStorage.parallel_requests


def test_size_is_known_without_reading_the_samples(labelled_dataset, tmp_path):
    dataset = open_dataset(labelled_dataset)
    assert len(dataset) == 60
    assert dataset._samples is None


def test_empty_version_has_no_samples(tmp_path):
    dataset = open_dataset(write_dataset([], str(tmp_path), kind="images"))
    assert (len(dataset), dataset.samples, list(dataset.iter_bytes())) == (0, [], [])


@pytest.mark.parametrize("uri", ["{}", "{}/", "file://{}"])
def test_address_may_be_written_in_several_ways(tmp_path, uri):
    written = write_dataset([packed(1)], str(tmp_path), kind="images")
    assert open_dataset(uri.format(written)).read_bytes(0) == packed(1).content


def test_relative_address_is_served(tmp_path, monkeypatch):
    written = write_dataset([packed(1)], str(tmp_path), kind="images")
    monkeypatch.chdir(tmp_path)
    assert open_dataset(Path(written).name).read_bytes(0) == packed(1).content


def test_version_of_another_format_is_refused_with_the_way_out(tmp_path):
    manifest = {"format_version": 1}
    manifest["digest"] = manifest_digest(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has data set format 1, and this release reads format 2"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"kind": "images"}'])
def test_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest.json was altered; delete .* run prepare again"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("written", "altered"),
    [('"classes": ["ring"]', '"classes": ["king"]'), ('_side_px": 640', '_side_px": 240')],
)
def test_altered_manifest_is_refused(tmp_path, written, altered):
    image = PackedImage(b"one", "png", "1.png", "g", "train", 1, 1, label="ring")
    uri = write_dataset([image], str(tmp_path), kind="labels", classes=["ring"])
    path = Path(uri, "manifest.json")
    text = path.read_text().replace('_side_px": 0', '_side_px": 640')
    manifest = json.loads(text)
    text = text.replace(manifest["digest"], manifest_digest(manifest))
    path.write_text(text)
    assert open_dataset(uri).manifest["stored_short_side_px"] == 640
    path.write_text(text.replace(written, altered))
    with pytest.raises(UserError, match=r"manifest.json was altered: expected sha256 .* delete"):
        open_dataset(uri)
