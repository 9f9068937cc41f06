"""Packed data sets are plain tar files that verify themselves."""

from __future__ import annotations

from sightline.data import SPLITS, open_dataset


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
