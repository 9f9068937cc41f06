import math

import numpy as np
import pytest

from sightline.scoring.detection import (
    Detections,
    ScoredDetections,
    average_precision,
    best_confidence,
    box_overlap,
    headline_numbers,
    match,
    per_class_numbers,
    precision_and_recall,
    precision_at_recall,
    resampled_numbers,
)


def detections(*rows):
    """Rows of left, top, right, bottom, class index, confidence."""
    values = np.array(rows, dtype=float).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4].astype(np.int64), values[:, 5])


def scored(truths, found, classes=("lesion",), groups=None):
    groups = groups or [f"p{index}" for index in range(len(truths))]
    return ScoredDetections.from_images(classes, groups, truths, found)


HERE = (0, 0, 10, 10)
THERE = (50, 50, 60, 60)
NOWHERE = (80, 80, 90, 90)

# Two boxes; found with confidence 0.9 (right), 0.8 (wrong), 0.7 (right).
TWO_OF_THREE = (
    [detections((*HERE, 0, 1)), detections((*THERE, 0, 1))],
    [detections((*HERE, 0, 0.9), (*NOWHERE, 0, 0.8)), detections((*THERE, 0, 0.7))],
)


def test_average_precision_of_two_right_and_one_wrong():
    # Precision 1 up to recall 1/2 (51 of 101 recalls), then 2 right of 3.
    expected = (51 + 50 * 2 / 3) / 101
    cases = scored(*TWO_OF_THREE)
    assert average_precision(cases, cases.even_weights) == pytest.approx(
        np.full((1, 10), expected), abs=1e-12
    )
    curve = precision_at_recall(cases)[0]
    assert curve[[0, 50, 51, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3])


def test_precision_and_recall_count_from_the_confidence_upwards():
    cases = scored(*TWO_OF_THREE)
    precision, recall = precision_and_recall(cases, cases.even_weights, 0.8)
    assert (precision[0], recall[0]) == (0.5, 0.5)


def test_overlap_of_shifted_squares_is_shared_area_over_union():
    overlap = box_overlap(
        np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [20, 0, 30, 9]])
    )
    assert overlap == pytest.approx(np.array([[50 / 150, 0.0]]))


def test_a_loose_box_is_right_only_at_the_overlaps_it_reaches():
    # 10 x 10 within 10 x 16: an overlap of 0.625, so 0.5, 0.55 and 0.6 of the ten levels.
    cases = scored([detections((0, 0, 10, 10, 0, 1))], [detections((0, 0, 10, 16, 0, 0.5))])
    numbers = headline_numbers(cases, cases.even_weights, 0.25)
    assert (numbers["map50"], numbers["map50_95"]) == (1.0, pytest.approx(0.3))


def test_second_box_on_one_object_is_wrong():
    right = match(detections((*HERE, 0, 1)), detections((*HERE, 0, 0.6), (*HERE, 0, 0.9)))
    assert right[:, 0].tolist() == [False, True]


def test_right_place_with_the_wrong_class_is_wrong():
    assert not match(detections((*HERE, 0, 1)), detections((*HERE, 1, 0.9))).any()


def test_class_without_boxes_is_null_and_left_out_of_the_means():
    cases = scored(*TWO_OF_THREE, classes=("lesion", "cyst"))
    numbers = per_class_numbers(cases, 0.5)
    assert numbers["cyst"] == {
        "map50": None,
        "map50_95": None,
        "precision": None,
        "recall": None,
        "boxes": 0,
    }
    assert headline_numbers(cases, cases.even_weights, 0.5)["recall"] == 1.0


def test_finding_nothing_scores_0_though_the_class_has_no_precision():
    cases = scored([detections((*HERE, 0, 1))], [detections()])
    assert headline_numbers(cases, cases.even_weights, 0.5) == {
        "map50": 0.0,
        "map50_95": 0.0,
        "precision": 0.0,
        "recall": 0.0,
    }
    assert per_class_numbers(cases, 0.5)["lesion"]["precision"] is None


# One box of each class; the cyst is found beside a false finding, or never.
BOTH = [detections((*HERE, 0, 1)), detections((*THERE, 1, 1))]
LESION_FOUND = detections((*HERE, 0, 0.9))
CYST_FOUND_ONCE_OF_TWICE = detections((*THERE, 1, 0.9), (*NOWHERE, 1, 0.9))


def test_never_finding_a_class_lowers_the_mean_precision():
    names = ("lesion", "cyst")
    sometimes = scored(BOTH, [LESION_FOUND, CYST_FOUND_ONCE_OF_TWICE], names)
    never = scored(BOTH, [LESION_FOUND, detections()], names)
    means = [
        headline_numbers(cases, cases.even_weights, 0.5)["precision"]
        for cases in (sometimes, never)
    ]
    assert means == [(1 + 1 / 2) / 2, (1 + 0) / 2]
    assert per_class_numbers(never, 0.5)["cyst"]["precision"] is None


def test_class_that_a_resample_never_finds_counts_0_there():
    # A resample holds the lesion's image alone, both, or the cyst's alone.
    never = scored(BOTH, [LESION_FOUND, detections()], ("lesion", "cyst"))
    samples = resampled_numbers(never, 0.5, bootstrap_samples=100, seed=0)
    assert set(samples["precision"]) == {1.0, 0.5, 0.0}


def test_set_without_any_box_has_no_headline_number():
    cases = scored([detections()], [detections((*HERE, 0, 0.9))])
    numbers = headline_numbers(cases, cases.even_weights, 0.5)
    assert all(math.isnan(value) for value in numbers.values())


def random_case(seed, images=12, classes=3):
    random = np.random.default_rng(seed)

    def boxes(count):
        corner = random.uniform(0, 60, size=(count, 2))
        return np.concatenate([corner, corner + random.uniform(15, 40, size=(count, 2))], axis=1)

    truths, found = [], []
    for _ in range(images):
        count = int(random.integers(0, 4))
        true_boxes = boxes(count)
        kinds = random.integers(0, classes, count)
        truths.append(Detections(true_boxes, kinds, np.ones(count)))
        near = np.concatenate([true_boxes + random.normal(0, 3, true_boxes.shape), boxes(4)])
        guessed = np.concatenate([kinds, random.integers(0, classes, 4)])
        found.append(Detections(near, guessed, random.random(len(near))))
    return truths, found


def test_image_that_counts_twice_equals_the_image_twice():
    truths, found = random_case(1)
    names = ("a", "b", "c")
    weights = np.array([2.0, 0.0, *[1.0] * 10])
    repeated = [0, 0, *range(2, 12)]
    once = scored(truths, found, names)
    literal = scored([truths[i] for i in repeated], [found[i] for i in repeated], names)
    assert average_precision(once, weights) == pytest.approx(
        average_precision(literal, literal.even_weights), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(2))
def test_ultralytics_agrees_up_to_its_interpolation(seed):
    import torch

    from sightline.encoders.yolo import import_ultralytics

    import_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import ap_per_class

    truths, found = random_case(seed, images=400)
    cases = scored(truths, found, ("a", "b", "c"))
    matcher = type("M", (), {"iouv": torch.linspace(0.5, 0.95, 10)})()
    rows = []
    for truth, guess in zip(truths, found, strict=True):
        order = np.argsort(-guess.confidence)
        overlap = torch.from_numpy(box_overlap(truth.boxes, guess.boxes[order]))
        theirs = DetectionValidator.match_predictions(
            matcher,
            torch.from_numpy(guess.class_indices[order]),
            torch.from_numpy(truth.class_indices),
            overlap,
        ).numpy()
        assert (theirs == match(truth, guess)[order]).all()
        rows.append((theirs, guess.confidence[order], guess.class_indices[order]))
    parts = [np.concatenate(part) for part in zip(*rows, strict=True)]
    theirs = ap_per_class(*parts, np.concatenate([t.class_indices for t in truths]))[5]
    # They join the points of the curve by lines, COCO by steps: apart by about 1 / boxes.
    assert average_precision(cases, cases.even_weights) == pytest.approx(theirs, abs=0.01)


def test_best_confidence_separates_right_from_wrong():
    cases = scored([detections((*HERE, 0, 1))], [detections((*HERE, 0, 0.7), (*NOWHERE, 0, 0.3))])
    assert 0.3 < best_confidence(cases) <= 0.7


def test_without_any_right_finding_the_confidence_stays_at_its_default():
    assert best_confidence(scored([detections((*HERE, 0, 1))], [detections()])) == 0.25


def test_bootstrap_draws_whole_groups():
    # Patient a (two images) is found, patient b (two images) is not: a resample holds a twice,
    # once or never, so recall is 1, 1/2 or 0; single images would also give 1/4 and 3/4.
    truths = [detections((*HERE, 0, 1))] * 4
    found = [detections((*HERE, 0, 0.9))] * 2 + [detections()] * 2
    cases = scored(truths, found, groups=["a", "a", "b", "b"])
    samples = resampled_numbers(cases, 0.5, bootstrap_samples=200, seed=0)
    assert set(samples["recall"]) == {0.0, 0.5, 1.0}


def test_equal_seeds_draw_the_same_resamples():
    cases = scored(*random_case(2), classes=("a", "b", "c"))
    first, second = (
        resampled_numbers(cases, 0.5, bootstrap_samples=10, seed=3)["map50"] for _ in range(2)
    )
    assert (first == second).all()
