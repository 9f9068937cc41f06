import numpy as np
import pytest

from sightline.data import open_dataset
from sightline.data.labelled import read_labelled
from sightline.errors import UserError
from sightline.storage.local import LocalStorage


@pytest.mark.parametrize(("split", "images"), [("train", 36), ("val", 12), ("test", 12)])
def test_a_split_is_read_in_order_with_far_fewer_reads_than_images(
    split, images, labelled_dataset, monkeypatch
):
    dataset = open_dataset(labelled_dataset)
    chosen = dataset.split(split)
    expected = [chosen.read_image(place) for place in range(images)]
    reads = []
    read_bytes = LocalStorage.read_bytes

    def count(storage, key, *arguments):
        reads.append(key)
        return read_bytes(storage, key, *arguments)

    monkeypatch.setattr(LocalStorage, "read_bytes", count)
    found = read_labelled(dataset, split, "test")
    # 32 px are stored in about 1.5 kB, so a whole split lies in one shard and one request.
    assert len(reads) <= 3
    assert found.samples == chosen.samples
    assert found.labels.tolist() == chosen.label_indices.tolist()
    for one, other in zip(found.images, expected, strict=True):
        assert np.array_equal(one, other)


def test_split_that_exceeds_memory_is_refused_before_it_is_read(labelled_dataset, monkeypatch):
    dataset = open_dataset(labelled_dataset)
    dataset.split("train")  # the list of samples is read, the images are not
    # 36 images of 32 x 32 pixels in 3 bytes are 110,592 bytes.
    monkeypatch.setattr("sightline.data.labelled.usable_memory_bytes", lambda: 110_591)
    with pytest.raises(UserError, match=r"train split of .* GiB of memory when decoded"):
        read_labelled(dataset, "train", "test")
    monkeypatch.setattr("sightline.data.labelled.usable_memory_bytes", lambda: 110_592)
    assert len(read_labelled(dataset, "train", "test")) == 36
