"""The order of an epoch: pure, complete, well mixed, and found by arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sightline.data.order import EpochOrder


def make_order(counts, batch_size=16, lanes=8, mix_ranges=2, seed=0):
    return EpochOrder(counts, batch_size=batch_size, lanes=lanes, mix_ranges=mix_ranges, seed=seed)


def pairs(batches):
    return [
        list(zip(batch.ranges.tolist(), batch.places.tolist(), strict=True)) for batch in batches
    ]


UNEVEN = np.random.default_rng(0).integers(0, 9, size=200).tolist()
"""Ranges of 0 to 8 images."""


@pytest.mark.parametrize("counts", [UNEVEN, [100], [1] * 50, [3, 0, 0, 90]])
def test_epoch_holds_every_image_once_but_for_the_dropped_rest(counts):
    order = make_order(counts)
    everything = {(r, p) for r, count in enumerate(counts) for p in range(count)}
    assert order.images == len(everything)
    assert order.steps_per_epoch == len(everything) // 16
    for epoch in range(3):
        seen = list(itertools.chain.from_iterable(pairs(order.batches(epoch))))
        assert len(seen) == order.steps_per_epoch * 16
        assert len(set(seen)) == len(seen)
        assert set(seen) <= everything


def test_another_rest_is_dropped_in_each_epoch():
    order = make_order([5] * 200 + [7])  # 1,007 images, 62 batches of 16, 15 left over
    rests = [
        frozenset(
            {(r, p) for r, count in enumerate([5] * 200 + [7]) for p in range(count)}
            - set(itertools.chain.from_iterable(pairs(order.batches(epoch))))
        )
        for epoch in range(4)
    ]
    assert all(len(rest) == 15 for rest in rests)
    assert len(set(rests)) == 4


@pytest.mark.parametrize("counts", [UNEVEN, [100]])
def test_order_depends_on_seed_and_epoch_alone(counts):
    first = pairs(make_order(counts).batches(3))
    order = make_order(counts)
    assert pairs(order.batches(4)) != first
    assert pairs(order.batches(3)) == first
    assert pairs(make_order(counts, seed=1).batches(3)) != first


@pytest.mark.parametrize("counts", [UNEVEN, [100]])
def test_any_step_is_found_without_the_steps_before(counts):
    order = make_order(counts)
    whole = pairs(order.batches(7))
    for step in range(order.steps_per_epoch):
        assert pairs(order.batches(7, start_step=step)) == whole[step:]
    assert pairs(order.batches(7, start_step=order.steps_per_epoch)) == []


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_batches_hold_the_same_images_for_any_number_of_ranks(world_size):
    order = make_order(UNEVEN)
    whole = [sorted(batch) for batch in pairs(order.batches(2))]
    parts = [
        pairs(order.batches(2, lanes=range(rank, 8, world_size))) for rank in range(world_size)
    ]
    assert [sorted(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == whole
    assert {len(batch) for part in parts for batch in part} == {16 // world_size}


def test_small_set_is_shuffled_image_by_image():
    # Over 2,000 epochs each of the 32 images is as likely in a batch's first place as another:
    # the chi-squared statistic with 31 degrees of freedom exceeds 61.1 once in 1,000 times.
    order = make_order([16, 16], batch_size=8, lanes=8, mix_ranges=8)
    counts = np.zeros(32)
    for epoch in range(2_000):
        ranges, places = next(order.batches(epoch))
        counts[16 * ranges[0] + places[0]] += 1
    expected = 2_000 / 32
    assert ((counts - expected) ** 2 / expected).sum() < 61.1


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_divide_the_ranges_of_a_set_that_is_mixed_whole(world_size):
    # 256 ranges and 8 lanes that mix 32 each. Beyond its share a rank may touch the two ranges
    # that each of its lanes shares with a neighbour.
    order = make_order([10] * 256, mix_ranges=32)
    for rank in range(world_size):
        lanes = range(rank, 8, world_size)
        batches = list(order.batches(0, lanes=lanes))
        touched = np.unique(np.concatenate([batch.ranges for batch in batches]))
        assert len(touched) <= 256 // world_size + 2 * len(lanes)


def test_lane_of_a_set_that_is_mixed_whole_mixes_all_its_ranges():
    # 40 ranges of 10 for 4 lanes of 25 batches: by its 10th batch (40 of 100 draws) a lane has met
    # nearly all of its 10 or 11 ranges; in windows of some of them it would not have.
    order = make_order([10] * 40, lanes=4, mix_ranges=10)
    for epoch in range(5):
        for lane in range(4):
            batches = list(order.batches(epoch, lanes=[lane]))
            early = {r for batch in batches[:10] for r in batch.ranges.tolist()}
            late = {r for batch in batches for r in batch.ranges.tolist()}
            assert len(late - early) <= 2


def test_images_of_one_shard_meet_at_most_twice_as_often_as_in_a_uniform_shuffle():
    # 64 shards of 16 ranges of 10 images; 8 lanes mix 16 ranges each, so 128 are open at once.
    per_shard, images = 160, 64 * 160
    order = make_order([10] * 1024, batch_size=256, mix_ranges=16)
    same_shard = pairs_in_all = 0
    for epoch in range(2):
        for batch in order.batches(epoch):
            shards = np.bincount(batch.ranges // 16)
            same_shard += (shards * (shards - 1)).sum()
            pairs_in_all += 256 * 255
    uniform = (per_shard - 1) / (images - 1)
    assert same_shard / pairs_in_all <= 2 * uniform


def test_lane_works_on_few_ranges_at_a_time():
    # Else a lane would need the whole data set at hand. A window of 4 ranges of 10 images is
    # 20 batches of 2; where windows meet, a batch may touch two of them.
    order = make_order([10] * 800, batch_size=16, mix_ranges=4)
    lane = list(order.batches(0, lanes=[3]))
    for start in range(0, len(lane) - 20, 10):
        open_ranges = np.unique(
            np.concatenate([batch.ranges for batch in lane[start : start + 20]])
        )
        assert len(open_ranges) <= 9


def test_lanes_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="lanes must divide batch_size 10, got 4"):
        make_order([5], batch_size=10, lanes=4)


def test_no_place_in_a_range_is_left_out_more_than_another():
    # Two ranges of 10 in batches of 6 leave 2 images of the last range out of every epoch. An image
    # is among them in one epoch of ten, so never in 300 with a probability below 1e-13.
    order = make_order([10, 10], batch_size=6, lanes=1, mix_ranges=1)
    everything = {(r, p) for r in range(2) for p in range(10)}
    left_out = set()
    for epoch in range(300):
        left_out |= everything - set(itertools.chain(*pairs(order.batches(epoch))))
    assert left_out == everything


def test_windows_are_not_mixed_alike():
    # One range of 8 a window: 40 windows have one of 40,320 orders each.
    order = make_order([8] * 40, batch_size=8, lanes=1, mix_ranges=1)
    orders = {tuple(batch.places.tolist()) for batch in order.batches(0)}
    assert len(orders) > 35


def test_window_is_mixed_otherwise_in_each_epoch():
    # One range of 8 a window. An epoch also turns every range, so steps between places, not the
    # places themselves, tell whether the mixing was the same.
    order = make_order([8] * 40, batch_size=8, lanes=1, mix_ranges=1)
    steps = {tuple(np.diff(next(order.batches(epoch)).places) % 8) for epoch in range(20)}
    assert len(steps) > 15
