import math

import numpy as np
import pytest

from sightline.errors import UserError
from sightline.scoring import bootstrap_interval, paired_difference
from sightline.scoring.intervals import interval


def draw_grouped(groups, images_per_group, share_right, seed):
    """All images of a group are right or all are wrong: groups are the only independent draws."""
    right = np.random.default_rng(seed).random(groups) < share_right
    labels = np.zeros(groups * images_per_group, dtype=int)
    predicted = np.repeat(np.where(right, 0, 1), images_per_group)
    names = np.repeat([f"patient {number}" for number in range(groups)], images_per_group)
    return labels, np.eye(2)[predicted], list(names)


def test_interval_has_the_width_of_independent_groups_not_of_images():
    labels, probabilities, groups = draw_grouped(100, 10, 0.8, seed=3)
    found = bootstrap_interval("accuracy", labels, probabilities, groups, bootstrap_samples=4000)
    share = found["value"]
    expected = 2 * 1.96 * math.sqrt(share * (1 - share) / 100)
    assert found["high"] - found["low"] == pytest.approx(expected, rel=0.1)


def test_interval_covers_the_truth_about_19_times_in_20():
    covered = 0
    for seed in range(300):
        labels, probabilities, groups = draw_grouped(60, 4, 0.75, seed)
        found = bootstrap_interval(
            "accuracy", labels, probabilities, groups, bootstrap_samples=400, seed=seed
        )
        covered += found["low"] <= 0.75 <= found["high"]
    # The percentile interval of 60 groups covers a little less than 95 %; chance moves 300
    # simulations by 1.3 points. Intervals over images would cover two thirds.
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_of_the_area_follows_the_groups_too():
    random = np.random.default_rng(0)
    shift = np.repeat(random.normal(0, 1, 40), 5)
    labels = np.repeat(random.integers(0, 2, 40), 5)
    score = 1 / (1 + np.exp(-(labels + shift + random.normal(0, 0.1, 200))))
    probabilities = np.stack([1 - score, score], axis=1)
    by_patient = [str(number // 5) for number in range(200)]
    by_image = [str(number) for number in range(200)]
    widths = []
    for groups in (by_patient, by_image):
        found = bootstrap_interval("auc_macro", labels, probabilities, groups)
        assert found["low"] < found["value"] < found["high"]
        widths.append(found["high"] - found["low"])
    # Five copies of 40 patients know as much as 40 patients: sqrt(5) = 2.2 times as wide.
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(5), rel=0.25)


def test_difference_of_a_classifier_with_itself_is_exactly_zero():
    labels, probabilities, groups = draw_grouped(20, 3, 0.7, seed=1)
    found = paired_difference("f1_weighted", labels, probabilities, probabilities, groups)
    assert found == {"value": 0, "low": 0, "high": 0}


def test_difference_is_narrower_than_its_two_intervals_where_both_fail_on_the_same_groups():
    labels, better, groups = draw_grouped(50, 4, 0.7, seed=2)
    worse = better.copy()
    worse[[4 * number for number in range(0, 50, 2)]] = np.eye(2)[1]
    found = paired_difference("accuracy", labels, better, worse, groups)
    alone = bootstrap_interval("accuracy", labels, better, groups)
    lost = np.mean(better.argmax(1) != worse.argmax(1))
    assert found["value"] == pytest.approx(lost)
    assert 0 < found["low"] < found["value"] < found["high"]
    assert found["high"] - found["low"] < 0.5 * (alone["high"] - alone["low"])


def test_one_group_alone_has_no_interval():
    assert interval(0.5, np.array([0.5, 0.5]), groups=1) == {
        "value": 0.5,
        "low": None,
        "high": None,
    }


def test_unknown_metric_is_refused_with_the_known_ones():
    labels, probabilities, groups = draw_grouped(5, 2, 0.7, seed=2)
    with pytest.raises(UserError, match="'top1' is unknown, use one of accuracy, balanced"):
        bootstrap_interval("top1", labels, probabilities, groups)
