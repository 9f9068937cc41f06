"""Near copies are those that comparing each with each finds, and memory does not grow with them."""

import math
import subprocess
import sys
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from sightline.prepare import near_copies
from sightline.prepare.near_copies import find_near_copies

PIXELS = 1024


class Case(NamedTuple):
    thumbnails: np.ndarray
    groups: np.ndarray
    ranks: np.ndarray
    hashes: np.ndarray


def draw(count, seed, smooth=True):
    """Pictures like thumbnails of scans, coarse shapes with a common outline, or else noise."""
    rng = np.random.default_rng(seed)
    if not smooth:
        return rng.integers(0, 256, (count, PIXELS), dtype=np.uint8)
    outline = np.outer(np.hanning(32), np.hanning(32)).ravel()
    coarse = rng.normal(0, 40, (count, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(200 * outline + coarse.reshape(count, PIXELS), 0, 255).astype(np.uint8)


def make_case(thumbnails, seed=0, groups=200):
    rng = np.random.default_rng(seed)
    count = len(thumbnails)
    return Case(
        thumbnails,
        groups=rng.integers(0, groups, count),
        ranks=rng.choice(3, count, p=[0.65, 0.15, 0.2]).astype(np.int8),
        hashes=np.unique(thumbnails, axis=0, return_inverse=True)[1].ravel(),
    )


def plant(thumbnails, seed, copies=300):
    """Overwrite some by darker, shifted and noisy ones of others, near 0.99 on both sides."""
    rng = np.random.default_rng(seed)
    changed = thumbnails.copy()
    for row in rng.permutation(len(changed))[:copies]:
        other = changed[rng.integers(len(changed))].astype(float)
        noise = rng.normal(0, rng.uniform(0, 0.2) * other.std(), PIXELS)
        changed[row] = np.clip(0.8 * other + 10 + noise, 0, 255)
    return changed


def each_with_each(case):
    """Return {(earlier row, held-out row): correlation}, by numpy's own corrcoef."""
    varied = case.thumbnails.std(axis=1) > 0
    table = np.zeros((len(varied), len(varied)))
    table[np.ix_(varied, varied)] = np.corrcoef(case.thumbnails[varied].astype(float))
    near = table > 0.99
    near &= case.ranks[:, None] < case.ranks[None, :]
    near &= case.groups[:, None] != case.groups[None, :]
    near &= case.hashes[:, None] != case.hashes[None, :]
    return {(int(i), int(j)): table[i, j] for i, j in zip(*np.nonzero(near), strict=True)}


def assert_same_as_each_with_each(case, at_least=0):
    expected = each_with_each(case)
    assert len(expected) >= at_least
    found = find_near_copies(*case)
    assert found.count == len(expected)
    assert found.images == len({held_out for _, held_out in expected})
    assert found.complete
    assert len(found.examples) == min(20, len(expected))
    best = sorted(expected.values(), reverse=True)[:20]
    assert [pair.correlation for pair in found.examples] == pytest.approx(best, abs=1e-9)
    for row, held_out_row, correlation in found.examples:
        assert expected[row, held_out_row] == pytest.approx(correlation, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [True, False])
def test_planted_copies_are_found_as_by_comparing_each_with_each(seed, smooth):
    thumbnails = plant(draw(3000, seed, smooth), seed)
    # 300 copies, 2 x (0.65 x 0.35 + 0.15 x 0.2) of them across splits, about half above 0.99.
    assert_same_as_each_with_each(make_case(thumbnails, seed), at_least=50)


def test_pairs_just_above_the_limit_are_found_where_bounds_are_tight():
    # Four flat quarters leave three dimensions, which the short vectors hold whole: a bound is
    # the correlation itself. 0.5 % of random pairs are above 0.99, a tenth of them below 0.991.
    quarters = np.random.default_rng(0).integers(0, 256, (1500, 2, 2), dtype=np.uint8)
    pictures = quarters.repeat(16, axis=1).repeat(16, axis=2).reshape(1500, PIXELS)
    assert_same_as_each_with_each(make_case(pictures), at_least=1000)


def test_pairs_above_the_limit_by_less_than_the_rounding_of_a_bound_are_found():
    # Found by a search of 30,000 such pictures: above 0.99 by 1.5e-8 and less, where float32
    # cannot tell. Their negatives correlate the same.
    pairs = [
        ([153, 125, 181, 68], [196, 174, 217, 148]),
        ([161, 23, 108, 23], [248, 77, 180, 45]),
        ([73, 55, 93, 212], [70, 47, 67, 208]),
        ([41, 101, 22, 32], [74, 130, 41, 60]),
        ([103, 238, 64, 96], [79, 211, 22, 42]),
    ]
    quarters = np.array(pairs, dtype=np.uint8).reshape(-1, 2, 2)
    pictures = quarters.repeat(16, axis=1).repeat(16, axis=2).reshape(-1, PIXELS)
    for first in range(0, len(pictures), 2):
        case = Case(
            pictures[first : first + 2],
            groups=np.arange(2),
            ranks=np.array([0, 2], dtype=np.int8),
            hashes=np.arange(2),
        )
        assert len(each_with_each(case)) == 1
        assert_same_as_each_with_each(case)
    case = Case(
        np.concatenate([pictures, 255 - pictures]),
        groups=np.arange(20),
        ranks=np.tile([0, 2], 10).astype(np.int8),
        hashes=np.arange(20),
    )
    assert_same_as_each_with_each(case, at_least=10)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_no_pair_is_lost_between_blocks(block, monkeypatch):
    monkeypatch.setattr(near_copies, "_BLOCK", block)
    monkeypatch.setattr(near_copies, "_QUERIES", max(1, block - 2))
    assert_same_as_each_with_each(make_case(plant(draw(300, 5), 5, copies=100)), at_least=20)


def test_every_pair_of_a_family_of_lookalikes_is_counted():
    rng = np.random.default_rng(0)
    family = np.clip(draw(1, 0) + rng.normal(0, 2, (400, PIXELS)), 0, 255).astype(np.uint8)
    assert_same_as_each_with_each(make_case(np.concatenate([family, draw(400, 1)])), at_least=10**4)


def test_copies_that_are_brighter_or_of_more_contrast_are_near():
    first = draw(1, 3)[0] // 2
    case = Case(
        np.stack([first, first + 60, first * 2]),
        groups=np.arange(3),
        ranks=np.array([0, 1, 2], dtype=np.int8),
        hashes=np.arange(3),
    )
    found = find_near_copies(*case)
    assert found.count == 3
    assert [pair.correlation for pair in found.examples] == pytest.approx([1, 1, 1])
    assert [pair[:2] for pair in found.examples] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_pictures_are_near_to_nothing(value):
    thumbnails = draw(60, 4)
    thumbnails[::2] = value
    assert find_near_copies(*make_case(thumbnails)).count == 0
    thumbnails[:] = value
    case = make_case(thumbnails)._replace(hashes=np.arange(60))
    assert find_near_copies(*case).count == 0


def test_faintest_picture_is_not_taken_for_a_blank_one():
    thumbnails = np.full((2, PIXELS), 200, dtype=np.uint8)
    thumbnails[:, 5] = 201
    thumbnails[1] -= 9
    case = Case(thumbnails, np.arange(2), np.array([0, 2], dtype=np.int8), np.arange(2))
    assert find_near_copies(*case).count == 1


def test_exact_copies_are_not_near_copies():
    same = np.repeat(draw(1, 6), 50, axis=0)
    assert find_near_copies(*make_case(same)).count == 0


def test_identical_thumbnails_of_different_pixels_are_near_copies():
    same = np.repeat(draw(1, 6), 50, axis=0)
    case = make_case(same, groups=10**6)._replace(hashes=np.arange(50))
    sizes = [int((case.ranks == rank).sum()) for rank in range(3)]
    pairs = sizes[0] * sizes[1] + sizes[0] * sizes[2] + sizes[1] * sizes[2]
    assert find_near_copies(*case).count == pairs


def test_no_pair_inside_a_group_or_a_split_is_told():
    case = make_case(plant(draw(500, 7), 7))
    one_group = case._replace(groups=np.zeros(500, dtype=np.int64))
    one_split = case._replace(ranks=np.full(500, 2, dtype=np.int8))
    assert find_near_copies(*one_group).count == find_near_copies(*one_split).count == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_sets_of_hardly_any_image_have_an_answer(count):
    case = Case(draw(count, 0), np.arange(count), np.arange(count, dtype=np.int8), np.arange(count))
    found = find_near_copies(*case)
    assert (found.count, found.images, found.examples) == (0, 0, ())
    assert found.complete


def test_bound_on_lookalikes_is_told_and_hides_no_image():
    rng = np.random.default_rng(0)
    family = np.clip(draw(1, 0) + rng.normal(0, 2, (300, PIXELS)), 0, 255).astype(np.uint8)
    case = make_case(np.concatenate([family, draw(300, 1)]), groups=10**6)
    expected = each_with_each(case)
    bounded = find_near_copies(*case, max_lookalikes=10)
    held_out = {row for _, row in expected}
    assert not bounded.complete
    assert bounded.images == len(held_out)
    # A held-out image of the family has at least 10 earlier ones, and is compared with 10.
    assert bounded.count == 10 * len(held_out)
    most = max(sum(row == other for _, other in expected) for row in held_out)
    assert find_near_copies(*case, max_lookalikes=most).complete
    assert not find_near_copies(*case, max_lookalikes=most - 1).complete


def test_memory_map_gives_what_an_array_gives(tmp_path):
    case = make_case(plant(draw(1000, 8), 8))
    np.save(tmp_path / "thumbnails.npy", case.thumbnails)
    mapped = np.load(tmp_path / "thumbnails.npy", mmap_mode="r")
    assert find_near_copies(*case._replace(thumbnails=mapped)) == find_near_copies(*case)


PEAK = """
import sys, tracemalloc
import numpy as np
from sightline.prepare.near_copies import find_near_copies

path, count = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
thumbnails = np.memmap(path, np.uint8, "w+", shape=(count, 1024))
for start in range(0, count, 1000):
    thumbnails[start : start + 1000] = rng.integers(0, 256, (1000, 1024), dtype=np.uint8)
ids = np.arange(count)
ranks = (ids % 3).astype(np.int8)
tracemalloc.start()
find_near_copies(thumbnails, ids, ranks, ids)
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_stays_flat_as_the_set_grows_four_times(tmp_path):
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, str(tmp_path / "thumbnails"), str(count)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for count in (5_000, 20_000)
    ]
    # 15,000 more thumbnails are 15 MB as they are and 60 MB as vectors.
    assert peaks[1] - peaks[0] < 15_000 * 60


def test_correlation_is_told_to_the_last_digit():
    # Full contrast makes the largest sums: one less exact step would show in the ninth digit.
    rng = np.random.default_rng(0)
    first = rng.choice([0, 1, 254, 255], PIXELS).astype(np.uint8)
    second = np.where(rng.random(PIXELS) < 0.002, 128, first).astype(np.uint8)
    case = Case(np.stack([first, second]), np.arange(2), np.array([0, 2]), np.arange(2))
    x, y = (Fraction(int(v)) for v in (first.astype(int).sum(), second.astype(int).sum()))
    products = [
        Fraction(int((a.astype(int) * b.astype(int)).sum()))
        for a, b in [(first, second), (first, first), (second, second)]
    ]
    covariance, first_square, second_square = (
        PIXELS * product - total
        for product, total in zip(products, (x * y, x * x, y * y), strict=True)
    )
    expected = math.sqrt(covariance**2 / (first_square * second_square))
    [pair] = find_near_copies(*case).examples
    assert pair.correlation == pytest.approx(expected, rel=1e-15)
