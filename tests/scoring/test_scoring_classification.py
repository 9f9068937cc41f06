import math

import numpy as np
import pytest

from sightline.errors import UserError
from sightline.scoring import score_classification

# True class in rows, predicted in columns:
#          cat dog eel
#   cat  [  4   1   0 ]
#   dog  [  1   2   0 ]
#   eel  [  1   0   1 ]
COUNTS = [[4, 1, 0], [1, 2, 0], [1, 0, 1]]
CLASSES = ("cat", "dog", "eel")


def one_hot_from(counts):
    labels, rows = [], []
    for true, row in enumerate(counts):
        for predicted, count in enumerate(row):
            labels += [true] * count
            rows += [np.eye(len(counts))[predicted]] * count
    return np.array(labels), np.array(rows)


@pytest.fixture(scope="module")
def entry():
    labels, probabilities = one_hot_from(COUNTS)
    groups = [f"g{number // 2}" for number in range(len(labels))]
    return score_classification(labels, probabilities, CLASSES, groups, labels_used=40)


def test_counts_labels_images_and_groups_are_stated(entry):
    assert (entry["labels_used"], entry["test_images"], entry["test_groups"]) == (40, 10, 5)
    assert entry["confusion_matrix"] == {"classes": list(CLASSES), "counts": COUNTS}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 7 / 10),
        ("balanced_accuracy", (4 / 5 + 2 / 3 + 1 / 2) / 3),
        ("recall_macro", (4 / 5 + 2 / 3 + 1 / 2) / 3),
        ("recall_weighted", 7 / 10),
        ("precision_macro", (4 / 6 + 2 / 3 + 1) / 3),
        ("precision_weighted", (5 * 4 / 6 + 3 * 2 / 3 + 2 * 1) / 10),
        ("f1_macro", (8 / 11 + 4 / 6 + 2 / 3) / 3),
        ("f1_weighted", (5 * 8 / 11 + 3 * 4 / 6 + 2 * 2 / 3) / 10),
    ],
)
def test_averages_equal_their_hand_arithmetic(entry, metric, expected):
    assert entry[metric]["value"] == pytest.approx(expected)
    assert entry[metric]["low"] <= expected <= entry[metric]["high"]


def test_each_class_has_its_own_numbers(entry):
    # With 0/1 scores the area is (true positive rate + true negative rate) / 2.
    assert entry["per_class"]["cat"] == {
        "precision": pytest.approx(4 / 6),
        "recall": pytest.approx(4 / 5),
        "f1": pytest.approx(8 / 11),
        "auc": pytest.approx((4 / 5 + 3 / 5) / 2),
        "support": 5,
    }


def test_area_counts_the_pairs_that_are_ranked_right_and_half_the_ties():
    # Positives score 0.9, 0.6, 0.4; negatives 0.6, 0.2: of 6 pairs, 0.9 beats 2, 0.6 beats one
    # and ties one, 0.4 beats one, so 4.5 of 6.
    scores = np.array([0.9, 0.6, 0.4, 0.6, 0.2])
    labels = np.array([1, 1, 1, 0, 0])
    entry = score_classification(
        labels, np.stack([1 - scores, scores], axis=1), ("no", "yes"), list("abcde"), labels_used=1
    )
    assert entry["per_class"]["yes"]["auc"] == pytest.approx(4.5 / 6)
    assert entry["auc_macro"]["value"] == pytest.approx(4.5 / 6)


def test_roc_curve_goes_from_corner_to_corner_through_the_hand_drawn_points():
    scores = np.array([0.9, 0.7, 0.5, 0.3])
    labels = np.array([1, 0, 1, 0])
    entry = score_classification(
        labels, np.stack([1 - scores, scores], axis=1), ("no", "yes"), list("abcd"), labels_used=1
    )
    curve = entry["roc"]["yes"]
    assert curve["false_positive_rate"] == [0, 0, 0.5, 0.5, 1]
    assert curve["true_positive_rate"] == [0, 0.5, 0.5, 1, 1]
    assert curve["threshold"] == [None, 0.9, 0.7, 0.5, 0.3]


def test_long_roc_curve_is_thinned_to_200_points():
    random = np.random.default_rng(0)
    scores = random.random(5000)
    labels = random.integers(0, 2, 5000)
    entry = score_classification(
        labels,
        np.stack([1 - scores, scores], axis=1),
        ("no", "yes"),
        [str(number % 50) for number in range(5000)],
        labels_used=1,
        bootstrap_samples=100,
    )
    curve = entry["roc"]["yes"]["false_positive_rate"]
    assert len(curve) <= 200
    assert (curve[0], curve[-1]) == (0, 1)


def test_numbers_of_a_class_without_test_images_are_none_and_not_zero():
    labels, probabilities = one_hot_from([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    entry = score_classification(labels, probabilities, CLASSES, list("aabbcc"), labels_used=9)
    assert entry["per_class"]["eel"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "auc": None,
        "support": 0,
    }
    assert entry["roc"]["eel"] is None
    # The averages run over the classes that exist.
    assert entry["balanced_accuracy"]["value"] == pytest.approx((3 / 4 + 1) / 2)


def test_class_that_is_never_predicted_has_no_precision_but_lowers_the_average():
    labels, probabilities = one_hot_from([[3, 0], [1, 0]])
    entry = score_classification(labels, probabilities, ("a", "b"), list("abcd"), labels_used=9)
    assert entry["per_class"]["b"]["precision"] is None
    assert entry["precision_macro"]["value"] == pytest.approx((3 / 4 + 0) / 2)


def test_equal_probabilities_predict_the_first_class():
    entry = score_classification(
        np.array([0, 1]), np.full((2, 2), 0.5), ("a", "b"), ["g", "h"], labels_used=1
    )
    assert entry["confusion_matrix"]["counts"] == [[1, 0], [1, 0]]


def test_single_group_has_values_but_no_interval():
    labels, probabilities = one_hot_from(COUNTS)
    entry = score_classification(labels, probabilities, CLASSES, ["g"] * 10, labels_used=1)
    assert entry["accuracy"] == {"value": pytest.approx(0.7), "low": None, "high": None}


def test_equal_seeds_give_equal_intervals(entry):
    labels, probabilities = one_hot_from(COUNTS)
    groups = [f"g{number // 2}" for number in range(len(labels))]
    assert score_classification(labels, probabilities, CLASSES, groups, labels_used=40) == entry


@pytest.mark.parametrize(
    ("labels", "probabilities", "groups", "message"),
    [
        ([], np.zeros((0, 2)), [], "at least 1 test image, got none"),
        ([0, 1], np.full((2, 3), 1 / 3), ["g", "h"], r"shape \(2, 2\).*got \(2, 3\)"),
        ([0, 1], np.full((2, 2), 0.5), ["g"], "2 groups, got .* and 1"),
        ([0, 2], np.full((2, 2), 0.5), ["g", "h"], r"class indices 0\.\.1"),
        ([0, 1], np.array([[0.5, 0.5], [math.nan, 0.5]]), ["g", "h"], "must be finite"),
        ([0, 1], np.array([[0.5, 0.5], [0.9, 0.9]]), ["g", "h"], "sum to 1"),
    ],
)
def test_senseless_input_is_refused(labels, probabilities, groups, message):
    with pytest.raises(UserError, match=message):
        score_classification(
            np.array(labels, dtype=int), probabilities, ("a", "b"), groups, labels_used=1
        )
