import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.scoring import majority_probabilities, nearest_neighbour_probabilities

CLASSES = ("glioma", "meningioma", "pituitary")


def test_majority_predicts_the_commonest_class_with_the_training_frequencies():
    found = majority_probabilities(np.array([0, 2, 2, 2]), n_classes=3, n_test=2)
    assert found.tolist() == [[0.25, 0, 0.75], [0.25, 0, 0.75]]


def ramp(direction, brightness, side=40):
    values = np.linspace(0, 80, side) + brightness
    gray = np.tile(values, (side, 1)) if direction == "right" else np.tile(values[:, None], side)
    return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)


def test_neighbour_is_alike_in_pattern_whatever_its_brightness_and_size():
    train = [ramp("right", 0), ramp("down", 100)]
    found = nearest_neighbour_probabilities(
        train, np.array([1, 0]), [ramp("right", 120, side=64), ramp("down", 10)], n_classes=3
    )
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_image_of_one_gray_gives_an_answer_and_no_warning(recwarn):
    flat = np.full((8, 8, 3), 90, dtype=np.uint8)
    found = nearest_neighbour_probabilities([ramp("right", 0)], np.array([0]), [flat], n_classes=2)
    assert found.tolist() == [[1, 0]]
    assert not recwarn.list


@pytest.mark.skipif(
    "SIGHTLINE_BRAIN_MRI" not in os.environ,
    reason="needs the brain MRI set, too large to travel with the tests: set SIGHTLINE_BRAIN_MRI "
    "to the folder that holds its train/<class>/*.jpg and test/<class>/*.jpg",
)
def test_pixel_nearest_neighbour_gives_the_published_share_on_the_brain_mri_test_fold():
    folder = Path(os.environ["SIGHTLINE_BRAIN_MRI"])
    parts = {}
    for split in ("train", "test"):
        paths = sorted((folder / split).glob("*/*.jpg"))
        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        parts[split] = images, np.array([CLASSES.index(path.parent.name) for path in paths])
    found = nearest_neighbour_probabilities(*parts["train"], parts["test"][0], n_classes=3)
    # The set's description names 73.5 %.
    assert (found.argmax(1) == parts["test"][1]).mean() == pytest.approx(0.735, abs=0.0005)
