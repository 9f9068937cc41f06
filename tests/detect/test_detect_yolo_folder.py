import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from sightline.data import PackedDataset, open_dataset
from sightline.detect.yolo_folder import write_yolo_folder
from sightline.errors import UserError


@pytest.fixture
def dataset(boxes_dataset):
    return open_dataset(boxes_dataset)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_keep_their_bytes_and_order_and_lose_their_names(split, dataset, tmp_path):
    files = write_yolo_folder(dataset, tmp_path, max_gib=1)
    written = sorted(files.images(split).iterdir())
    chosen = dataset.split(split)
    assert [path.read_bytes() for path in written] == list(chosen.iter_bytes())
    assert not any("scene" in path.name for path in written)
    labels = [tmp_path / split / "labels" / f"{path.stem}.txt" for path in written]
    counts = [len(path.read_text().splitlines()) for path in labels]
    assert counts == [len(sample.boxes) for sample in chosen.samples]
    place = next(i for i, sample in enumerate(chosen.samples) if sample.boxes)
    first = chosen.samples[place].boxes[0]
    values = [float(value) for value in labels[place].read_text().split()[:5]]
    assert values == pytest.approx(
        [
            dataset.classes.index(first.class_name),
            first.x_center,
            first.y_center,
            first.width,
            first.height,
        ],
        abs=1e-6,
    )


def test_the_test_split_is_not_among_the_files(dataset, tmp_path):
    write_yolo_folder(dataset, tmp_path, max_gib=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


def test_an_epochs_score_reads_the_validation_images_from_the_files(dataset, tmp_path):
    expected = list(dataset.split("val").iter_images())
    found = list(write_yolo_folder(dataset, tmp_path, max_gib=1).read_val())
    assert len(found) == len(expected) == 4
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture
def no_reads(monkeypatch):
    def refuse(dataset):
        raise AssertionError("an image was read")

    monkeypatch.setattr(PackedDataset, "iter_bytes", refuse)


def needed_bytes(dataset):
    """Each image and each label file takes whole blocks of 4,096 bytes."""
    return sum(
        4096 * (sample.size_bytes // 4096 + (sample.size_bytes % 4096 > 0) + 1)
        for sample in dataset.samples
        if sample.split != "test"
    )


def test_a_set_above_the_limit_is_refused_before_anything_is_read(dataset, tmp_path, no_reads):
    limit = (needed_bytes(dataset) - 1) / 2**30
    message = r"12 images of train and val .* more than max_local_gib .*: raise max_local_gib"
    with pytest.raises(UserError, match=message):
        write_yolo_folder(dataset, tmp_path / "files", max_gib=limit)
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_exactly_the_limit_is_written(dataset, tmp_path):
    files = write_yolo_folder(dataset, tmp_path, max_gib=needed_bytes(dataset) / 2**30)
    assert len(list(files.images("train").iterdir())) == 8


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(
    dataset, tmp_path, no_reads, monkeypatch
):
    free = needed_bytes(dataset) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=r"GiB are free under .*: free some, or point TMPDIR"):
        write_yolo_folder(dataset, tmp_path, max_gib=1)
    assert list(tmp_path.iterdir()) == []
