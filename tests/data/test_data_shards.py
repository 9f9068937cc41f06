"""Packed data sets: plain tar files that any tool reads and that verify themselves."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from webdataset import WebDataset

from sightline.data import SPLITS, Box, open_dataset, write_dataset
from sightline.data.shards import PackedImage, tar_header
from sightline.errors import UserError
from sightline.storage.local import LocalStorage


def packed(name, content=b"", split="train", **known):
    content = content or f"bytes of {name}".encode()
    known.setdefault("group", name)
    return PackedImage(content, "png", name, split=split, width=4, height=3, **known)


def shard_paths(uri):
    return [Path(uri).parent / shard["name"] for shard in open_dataset(uri).manifest["shards"]]


def files_below(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_class_has_images_in_every_split_of_the_shared_data_set(labelled_dataset):
    dataset = open_dataset(labelled_dataset)
    for split in SPLITS:
        labels = {sample.label for sample in dataset.split(split).samples}
        assert labels == set(dataset.classes)


def test_boxes_of_the_shared_data_set_lie_inside_their_images(boxes_dataset):
    for sample in open_dataset(boxes_dataset).samples:
        for box in sample.boxes:
            assert box.width / 2 <= box.x_center <= 1 - box.width / 2
            assert box.height / 2 <= box.y_center <= 1 - box.height / 2


def test_what_is_known_of_an_image_comes_back(tmp_path):
    box = Box("glioma", 0.5, 0.25, 0.1, 0.2)
    images = [
        packed("a/ü\u2028\x85.png", label="glioma", group="p1", split="test"),
        packed("b.png", boxes=(box,)),
        packed("c.png", boxes=()),
    ]
    dataset = open_dataset(write_dataset(images, str(tmp_path), kind="boxes", classes=["glioma"]))
    by_name = {sample.name: sample for sample in dataset.samples}
    first = by_name["a/ü\u2028\x85.png"]
    assert (first.label, first.group, first.split, first.boxes) == ("glioma", "p1", "test", None)
    assert (first.width, first.height) == (4, 3)
    assert by_name["b.png"].boxes == (box,)
    assert by_name["c.png"].boxes == ()
    for place, sample in enumerate(dataset.samples):
        assert dataset.read_bytes(place) == f"bytes of {sample.name}".encode()


def test_members_are_named_by_their_sha256_and_open_with_tar(labelled_dataset):
    [shard] = shard_paths(labelled_dataset)
    with tarfile.open(shard) as archive:
        members = archive.getmembers()
        assert len(members) == 60
        for member in members:
            # webdataset takes what is before the first dot as key, what is after it as field.
            key, _, field = member.name.partition(".")
            content = archive.extractfile(member).read()
            assert key == hashlib.sha256(content).hexdigest()
            assert field == "png"
            assert "/" not in member.name


def test_webdataset_reads_the_shards(labelled_dataset):
    [shard] = shard_paths(labelled_dataset)
    read = {item["__key__"]: item["png"] for item in WebDataset(str(shard), shardshuffle=False)}
    dataset = open_dataset(labelled_dataset)
    expected = {s.sha256: c for s, c in zip(dataset.samples, dataset.iter_bytes(), strict=True)}
    assert read == expected


def test_tar_lists_the_shards(labelled_dataset):
    [shard] = shard_paths(labelled_dataset)
    listed = subprocess.run(["tar", "tf", shard], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    names = {f"{sample.sha256}.png" for sample in open_dataset(labelled_dataset).samples}
    assert set(listed.stdout.split()) == names


def test_key_comes_once_in_a_shard_as_webdataset_asks(tmp_path):
    images = [packed(f"{number}.png", b"the same bytes") for number in range(3)]
    uri = write_dataset(images, str(tmp_path), kind="images")
    [shard] = shard_paths(uri)
    with tarfile.open(shard) as archive:
        assert len(archive.getnames()) == 1
    dataset = open_dataset(uri)
    assert [dataset.read_bytes(place) for place in range(3)] == [b"the same bytes"] * 3


def test_manifest_counts_splits_classes_and_groups(labelled_dataset):
    manifest = open_dataset(labelled_dataset).manifest
    # The shared data set: 3 classes of 6, 2 and 2 groups of 2 images each.
    assert manifest["counts"]["images"] == 60
    assert manifest["counts"]["train"] == {
        "images": 36,
        "groups": 18,
        "classes": {"checks": 12, "columns": 12, "rows": 12},
    }
    assert manifest["counts"]["test"]["groups"] == 6
    assert manifest["groups"] == 30
    [shard] = manifest["shards"]
    content = (Path(labelled_dataset).parent / shard["name"]).read_bytes()
    assert shard["bytes"] == len(content)
    assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert shard["count"] == 60


def test_shards_stay_below_their_size(tmp_path):
    images = [packed(f"{number}.png", bytes([number]) * 3000) for number in range(20)]
    uri = write_dataset(images, str(tmp_path), kind="images", shard_size_bytes=10_240)
    shards = open_dataset(uri).manifest["shards"]
    # A member takes 512 bytes of header and 3,072 of content, and 1,024 end the archive: two fit.
    assert [shard["count"] for shard in shards] == [2] * 10
    for shard in shards:
        assert (tmp_path / shard["name"]).stat().st_size <= 10_240


def test_same_images_in_another_order_are_the_same_version(tmp_path):
    images = [packed(f"{number}.png") for number in range(10)]
    first = write_dataset(images, str(tmp_path / "a"), kind="images")
    second = write_dataset(reversed(images), str(tmp_path / "b"), kind="images")
    assert Path(first).name == Path(second).name
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


@pytest.mark.parametrize("change", [{"split": "val"}, {"group": "q"}, {"content": b"other"}])
def test_any_change_is_another_version(tmp_path, change):
    images = [packed(f"{number}.png") for number in range(10)]
    changed = [replace(images[0], **change), *images[1:]]
    first = write_dataset(images, str(tmp_path), kind="images")
    assert write_dataset(changed, str(tmp_path), kind="images") != first


def test_altered_image_bytes_are_refused(tmp_path):
    uri = write_dataset([packed("a.png", b"good bytes")], str(tmp_path), kind="images")
    [shard] = shard_paths(uri)
    shard.write_bytes(shard.read_bytes().replace(b"good bytes", b"evil bytes"))
    with pytest.raises(
        UserError, match=r"a.png in .* was altered: expected sha256 .*; delete .* run"
    ):
        open_dataset(uri).read_bytes(0)


def test_altered_list_of_samples_is_refused(tmp_path):
    uri = write_dataset([packed("a.png", split="test")], str(tmp_path), kind="images")
    listing = Path(uri) / "samples.jsonl"
    listing.write_text(listing.read_text().replace('"test"', '"train"'))
    with pytest.raises(UserError, match=r"samples.jsonl was altered"):
        _ = open_dataset(uri).samples


def test_write_that_dies_midway_leaves_no_version_and_the_next_one_completes_it(
    tmp_path, monkeypatch
):
    images = [packed(f"{number}.png", bytes([number]) * 3000) for number in range(9)]
    upload = LocalStorage.upload
    uploaded = []

    def die_at_the_third(self, source, key):
        uploaded.append(key)
        if len(uploaded) == 3:
            raise KeyboardInterrupt
        upload(self, source, key)

    monkeypatch.setattr(LocalStorage, "upload", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(images, str(tmp_path), kind="images", shard_size_bytes=8192)
    # Shards are there that no version names.
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    monkeypatch.undo()
    uri = write_dataset(images, str(tmp_path), kind="images", shard_size_bytes=8192)
    dataset = open_dataset(uri)
    assert [len(dataset.read_bytes(place)) for place in range(9)] == [3000] * 9


def test_version_that_is_there_is_not_written_again_but_for_its_list(tmp_path):
    uri = write_dataset([packed("a.png")], str(tmp_path), kind="images")
    listing = Path(uri, "samples.jsonl")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path != listing}
    assert len(before) == 2
    content = listing.read_bytes()
    assert write_dataset([packed("a.png")], str(tmp_path), kind="images") == uri
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert listing.read_bytes() == content


def test_manifest_is_json_without_a_digest_of_its_own_making(tmp_path):
    uri = write_dataset([packed("a.png")], str(tmp_path), kind="images")
    manifest = json.loads((Path(uri) / "manifest.json").read_text())
    digest = manifest.pop("digest")
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert Path(uri).name == digest[:16]


def test_images_without_labels_have_no_label_indices(tmp_path):
    uri = write_dataset([packed("a.png")], str(tmp_path), kind="images")
    with pytest.raises(UserError, match=r"1 images without a label \(such as a.png\)"):
        _ = open_dataset(uri).label_indices


def test_label_index_is_the_place_of_the_class(labelled_dataset):
    dataset = open_dataset(labelled_dataset).split("val")
    names = [dataset.classes[index] for index in dataset.label_indices]
    assert names == [sample.label for sample in dataset.samples]


@pytest.mark.parametrize("name", ["a.png", f"{'0123456789abcdef' * 4}.jpg"])
@pytest.mark.parametrize("size_bytes", [0, 1, 20_000, 8 * 2**30 - 1])
def test_header_is_that_of_tarfile(name, size_bytes):
    member = tarfile.TarInfo(name)
    member.size, member.mode = size_bytes, 0o644
    assert tar_header(name, size_bytes) == member.tobuf(tarfile.USTAR_FORMAT)
