import numpy as np

from sightline.data import open_dataset
from sightline.detect.pictures import choose, draw, most_confident
from sightline.scoring.detection import Detections


def detections(*rows):
    values = np.array(rows, dtype=float).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4].astype(np.int64), values[:, 5])


def test_pictures_are_chosen_alike_each_time_and_images_with_boxes_come_first(boxes_dataset):
    test = open_dataset(boxes_dataset).split("test")
    chosen = choose(test, 4, seed=0)
    assert chosen == choose(test, 4, seed=0)
    assert [bool(test.samples[place].boxes) for place in chosen] == [True, True, True, False]


def test_true_box_is_drawn_whole_and_the_found_one_with_gaps():
    # Scaled by 8: the true box has its left side at 64, the found one at 256.
    truth = detections((8, 16, 24, 48, 0, 1))
    found = detections((32, 16, 48, 48, 0, 0.9))
    picture = np.asarray(draw(np.zeros((64, 64, 3), np.uint8), truth, found, ("lesion",)))
    orange = (picture == (0xE6, 0x9F, 0x00)).all(axis=2)
    sides = [orange[140:370, x - 1 : x + 3].any(axis=1).mean() for x in (64, 256)]
    assert sides[0] == 1.0
    assert 0.3 < sides[1] < 0.7


def test_only_the_surest_guess_on_one_place_is_drawn():
    kept = most_confident(
        detections((0, 0, 10, 10, 0, 0.4), (0, 0, 10, 11, 1, 0.6), (40, 40, 50, 50, 0, 0.3))
    )
    assert kept.confidence.tolist() == [0.6, 0.3]
