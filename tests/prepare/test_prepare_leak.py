"""The leak of a random split: known by construction, and flat in memory for a large set."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from sightline.prepare import leak
from sightline.prepare.leak import chances_of_neighbours, measure_leak

CLASSES = np.array(["even", "odd"])


def slices_of_patients(patients, slices, seed=0, test_every=5):
    """Slices of a patient are alike but for noise; patients have nothing in common."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), slices)
    base = rng.normal(128, 40, (patients, 1024))[groups]
    pixels = np.clip(base + rng.normal(0, 10, base.shape), 0, 255).astype(np.uint8)
    return pixels, CLASSES[groups % 2], groups % test_every == 0, groups


def nearest_by_correlation(pixels, labels, is_test):
    """Return the accuracy by numpy's own corrcoef."""
    table = np.corrcoef(pixels.astype(float))[np.ix_(is_test, ~is_test)]
    return (labels[~is_test][table.argmax(axis=1)] == labels[is_test]).mean()


def test_random_split_finds_the_other_slice_and_a_split_by_patient_tosses_a_coin():
    found = measure_leak(*slices_of_patients(300, 4), seed=0)
    assert found.random_split > 0.95
    # 60 patients of 4 slices: chance of 0.5 with a standard error of at most 0.065.
    assert 0.3 < found.this_split < 0.7
    # A patient is right or wrong as a whole, so the interval is that of 60 tosses: +- 0.13.
    low, high = found.this_split_interval
    assert low < found.this_split < high
    assert 0.2 < high - low < 0.32
    low, high = found.random_split_interval
    assert low <= found.random_split <= high
    assert high - low < 0.05
    assert (found.images, found.of) == (1200, 1200)


@pytest.mark.parametrize("block", [3, 1024])
def test_accuracy_is_that_of_the_highest_correlation(block, monkeypatch):
    monkeypatch.setattr(leak, "_BLOCK", block)
    pixels, labels, is_test, groups = slices_of_patients(60, 3)
    found = measure_leak(pixels, labels, is_test, groups, seed=0)
    assert found.this_split == nearest_by_correlation(pixels, labels, is_test)


@pytest.mark.parametrize("block", [5, 1024])
def test_random_split_is_the_mean_over_all_random_splits(block, monkeypatch):
    monkeypatch.setattr(leak, "_BLOCK", block)
    pixels, labels, is_test, groups = slices_of_patients(12, 3, test_every=3)
    labels = CLASSES[np.random.default_rng(1).integers(0, 2, len(labels))]
    found = measure_leak(pixels, labels, is_test, groups, seed=0)
    likeness = np.corrcoef(pixels.astype(float))
    rng = np.random.default_rng(2)

    def draw():
        tests = rng.permutation(is_test)
        nearest = np.where(tests, -np.inf, likeness[tests]).argmax(axis=1)
        return (labels[nearest] == labels[tests]).mean()

    draws = [draw() for _ in range(4000)]
    # Four standard errors of the mean of the draws.
    assert found.random_split == pytest.approx(
        np.mean(draws), abs=4 * np.std(draws) / math.sqrt(len(draws))
    )
    assert measure_leak(pixels, labels, is_test, groups, seed=9).random_split == found.random_split


def test_chances_are_those_of_every_possible_draw():
    images, tests = 7, 4
    first_known = Counter()
    # Image 0 is asked; the others are its neighbours in their order.
    for others in itertools.combinations(range(1, images), tests - 1):
        first_known[min(set(range(1, images)) - set(others))] += 1
    expected = [first_known[k] / math.comb(images - 1, tests - 1) for k in range(1, tests + 1)]
    assert chances_of_neighbours(images, tests) == pytest.approx(expected)
    assert chances_of_neighbours(2, 1).tolist() == [1]
    assert len(chances_of_neighbours(10**6, 2 * 10**5)) < 12
    assert len(chances_of_neighbours(10**6, 10**6 - 1)) == 64


def test_one_group_alone_has_no_interval():
    pixels, labels, _, groups = slices_of_patients(1, 8)
    is_test = np.arange(8) < 2
    found = measure_leak(pixels, labels, is_test, groups, seed=0)
    assert found.this_split_interval is None
    assert found.random_split_interval is None


def test_labels_may_be_numbers():
    pixels, labels, is_test, groups = slices_of_patients(60, 3)
    numbers = np.unique(labels, return_inverse=True)[1]
    by_name = measure_leak(pixels, labels, is_test, groups, seed=0)
    assert measure_leak(pixels, numbers, is_test, groups, seed=0) == by_name


def test_of_a_larger_set_whole_groups_are_looked_at_in_the_shares_of_the_splits(monkeypatch):
    seen = {}
    pixels, labels, is_test, groups = slices_of_patients(500, 4)
    rows_of = {row.tobytes(): number for number, row in enumerate(pixels)}

    compare = leak._compare

    def watch(thumbnails, labels, is_test):
        seen["rows"] = np.array([rows_of[row.tobytes()] for row in thumbnails])
        return compare(thumbnails, labels, is_test)

    monkeypatch.setattr(leak, "_compare", watch)
    found = measure_leak(pixels, labels, is_test, groups, seed=0, max_images=400)
    rows = seen["rows"]
    assert (found.images, found.of) == (len(rows), 2000) == (400, 2000)
    assert set(np.unique(groups[rows], return_counts=True)[1]) == {4}
    assert is_test[rows].sum() == 80
    # Drawn, not the first: groups from all over the set.
    assert groups[rows].max() > 400
    again = measure_leak(pixels, labels, is_test, groups, seed=0, max_images=400)
    assert again == found
    measure_leak(pixels, labels, is_test, groups, seed=1, max_images=400)
    assert set(seen["rows"]) != set(rows)


def test_one_huge_patient_leaves_no_split_empty():
    pixels, labels, is_test, groups = slices_of_patients(4, 50, test_every=4)
    found = measure_leak(pixels, labels, is_test, groups, seed=0, max_images=20)
    assert found.images >= 100


@pytest.mark.parametrize("value", [True, False])
def test_without_a_test_image_or_any_other_there_is_nothing_to_measure(value):
    pixels, labels, is_test, groups = slices_of_patients(5, 2)
    assert measure_leak(pixels, labels, np.full_like(is_test, value), groups, seed=0) is None
    empty = np.zeros(0, dtype=np.int64)
    assert measure_leak(pixels[:0], labels[:0], is_test[:0], empty, seed=0) is None
