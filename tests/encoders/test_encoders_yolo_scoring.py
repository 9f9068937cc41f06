import numpy as np
import pytest
import torch

from sightline.data import open_dataset
from sightline.encoders import EncoderSpec
from sightline.encoders.yolo_detector import Detector, DetectorSpec
from sightline.encoders.yolo_scoring import find_all, score_detector
from sightline.errors import UserError
from sightline.scoring.detection import Detections


class Written(torch.nn.Module):
    """A network whose raw output is written down: rows of x, y, width, height, class scores."""

    def __init__(self, per_image):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.per_image = per_image
        self.position = 0

    def forward(self, images):
        rows = self.per_image[self.position : self.position + len(images)]
        self.position += len(images)
        raw = torch.zeros(len(images), 4 + len(rows[0][0]) - 4, 8)
        for place, boxes in enumerate(rows):
            for slot, box in enumerate(boxes):
                raw[place, :, slot] = torch.tensor(box)
        return (raw, None)


def detector_that_writes(per_image, classes=("disc", "square"), image_size_px=64):
    spec = DetectorSpec(EncoderSpec("yolo12n", 64), "n", classes, image_size_px, confidence=0.5)
    return Detector(spec, Written(per_image))


def written(box, classes, confidence, image_size_px=64):
    scores = [confidence if name == box.class_name else 0.0 for name in classes]
    place = (box.x_center, box.y_center, box.width, box.height)
    return [value * image_size_px for value in place] + scores


NOTHING = [[32.0, 32.0, 4.0, 4.0, 0.0, 0.0]]


def test_every_box_found_scores_1_whatever_the_input_size_and_class_order(boxes_dataset):
    dataset = open_dataset(boxes_dataset)
    classes = ("square", "disc")
    found = [
        [written(box, classes, 0.9, 128) for box in sample.boxes] or NOTHING
        for sample in dataset.split("test").samples
    ]
    entry = score_detector(detector_that_writes(found, classes, 128), dataset, bootstrap_samples=10)
    assert entry["map50_95"]["value"] == pytest.approx(1.0)
    assert entry["precision"]["value"] == entry["recall"]["value"] == 1.0
    assert (entry["test_images"], entry["test_groups"]) == (4, 4)
    counts = {name: values["boxes"] for name, values in entry["per_class"].items()}
    boxes = [box.class_name for sample in dataset.split("test").samples for box in sample.boxes]
    assert counts == {name: boxes.count(name) for name in classes}


def test_score_of_a_hand_made_case_is_the_arithmetic_one(boxes_dataset):
    # Every true box with confidence 0.9, and in the image without boxes a disc with 0.95: of D
    # discs, the first of D + 1 is wrong, so precision ends at D / (D + 1), at every recall above
    # 0 and, as no earlier precision is higher, at 0, too. Squares are all right.
    dataset = open_dataset(boxes_dataset)
    classes = dataset.classes
    samples = dataset.split("test").samples
    false_disc = [[20.0, 20.0, 10.0, 10.0, 0.95, 0.0]]
    found = [[written(box, classes, 0.9) for box in s.boxes] or false_disc for s in samples]
    discs = sum(box.class_name == "disc" for sample in samples for box in sample.boxes)
    share = discs / (discs + 1)
    entry = score_detector(detector_that_writes(found), dataset, bootstrap_samples=10)
    assert entry["per_class"]["disc"]["map50"] == pytest.approx(share)
    assert entry["map50"]["value"] == pytest.approx((share + 1) / 2)
    assert entry["precision"]["value"] == pytest.approx((share + 1) / 2)
    assert entry["recall"]["value"] == 1.0


def test_class_the_detector_does_not_know_is_refused(boxes_dataset):
    detector = detector_that_writes([], classes=("disc", "star"))
    with pytest.raises(UserError, match=r"class 'square'.*trained on disc, star"):
        score_detector(detector, open_dataset(boxes_dataset))


def test_split_without_annotated_images_is_refused(labelled_dataset):
    with pytest.raises(UserError, match="no annotated image in its test split"):
        score_detector(detector_that_writes([]), open_dataset(labelled_dataset))


@pytest.mark.parametrize("at_hand", [True, False])
def test_images_come_to_the_detector_in_their_order_and_in_batches_of_16(
    at_hand, boxes_dataset, monkeypatch
):
    dataset = open_dataset(boxes_dataset).take([*range(15, -1, -1), 3, 0])
    batches = []

    def note(detector, images):
        batches.append(images)
        return [Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))] * len(images)

    monkeypatch.setattr(Detector, "predict", note)
    images = [dataset.read_image(place) for place in range(18)]
    scored = find_all(detector_that_writes([]), dataset, images if at_hand else None)
    assert [len(batch) for batch in batches] == [16, 2]
    assert list(scored.groups) == dataset.groups
    for image, seen in zip(images, [*batches[0], *batches[1]], strict=True):
        assert np.array_equal(image, seen)
