import itertools

import numpy as np
import pytest
import torch

from sightline.pretrain import PretrainConfig
from sightline.pretrain.batches import RankBatches, epoch_order, load_batches


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_shares_make_up_the_batches_of_one_process(world_size):
    config = PretrainConfig(global_batch_size=8, epochs=3)
    alone = list(RankBatches(27, config, 0, 1))
    shares = [list(RankBatches(27, config, rank, world_size)) for rank in range(world_size)]
    joined = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == alone


def test_an_epoch_sees_every_image_once_and_leaves_out_the_incomplete_batch():
    config = PretrainConfig(global_batch_size=8, epochs=2)
    batches = list(RankBatches(27, config, 0, 1))
    assert [len(batch) for batch in batches] == [8] * 6
    for epoch in (1, 2):
        seen = [index for batch in batches for e, index in batch if e == epoch]
        assert len(seen) == len(set(seen)) == 24


def test_each_epoch_and_seed_has_its_own_order():
    assert sorted(epoch_order(9, 0, 1)) == list(range(9))
    orders = [epoch_order(9, 0, 1), epoch_order(9, 0, 2), epoch_order(9, 1, 1)]
    assert len({tuple(order) for order in orders}) == 3


def test_views_are_the_same_whatever_the_number_of_loader_processes():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(6)]
    batches = []
    for processes in (0, 2):
        config = PretrainConfig(
            image_size=32, global_batch_size=2, epochs=2, loader_processes=processes
        )
        batches.append(list(load_batches(images, config, torch.device("cpu"))[0]))
    assert len(batches[0]) == len(batches[1]) == 6
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
