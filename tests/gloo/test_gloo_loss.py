"""Two and four real processes against one: the loss and every gradient, in float64."""

from functools import partial

import pytest
import torch
from torch import nn
from two_processes import CPU, run_in_processes

import sightline.pretrain.loss
from sightline.pretrain import nt_xent_loss
from sightline.training import distributed

IMAGES = 12
CASES = {
    "plain": (0.1, False),
    "groups": (0.1, True),
    "low temperature": (0.01, False),
    "low temperature, groups": (0.01, True),
}


def build_network():
    """An encoder without BatchNorm, which has a test of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).double()


def draw_batch():
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(2, IMAGES, 3, 2, 2, generator=generator, dtype=torch.float64)
    return views, torch.tensor([0, 1, 1, 2, 0, 3, 4, 4, 5, 6, 7, 0])


def train_one_step(network, views, temperature, groups):
    first, second = network(torch.cat([views[0], views[1]])).chunk(2)
    loss = nt_xent_loss(first, second, temperature, groups)
    loss.backward()
    return loss.detach()


def work(processes, rank):
    assert (distributed.rank(), distributed.world_size()) == (rank, processes)
    assert distributed.is_main() == (rank == 0)
    # Several tiles for each process, and an uneven last one.
    sightline.pretrain.loss._TILE = 10
    views, groups = draw_batch()
    share = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
    found = {}
    for name, (temperature, grouped) in CASES.items():
        network = build_network()
        trained = distributed.data_parallel(network, CPU)
        own_groups = groups[share] if grouped else None
        loss = train_one_step(trained, views[:, share], temperature, own_groups)
        found[name] = (loss, [p.grad for p in network.parameters()])
    found["gathered"] = distributed.all_gather(torch.tensor([[rank, rank]]))
    return found


@pytest.fixture(scope="module", params=[2, 4])
def found_by_processes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return run_in_processes(partial(work, request.param), folder, request.param)


@pytest.mark.parametrize("case", CASES)
def test_processes_compute_the_loss_and_gradients_of_one(found_by_processes, case):
    views, groups = draw_batch()
    network = build_network()
    temperature, grouped = CASES[case]
    expected = train_one_step(network, views, temperature, groups if grouped else None)
    for loss, gradients in (found[case] for found in found_by_processes):
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        for gradient, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-10)


def test_gathered_parts_stand_in_the_order_of_the_ranks(found_by_processes):
    for found in found_by_processes:
        assert found["gathered"].tolist() == [
            [rank, rank] for rank in range(len(found_by_processes))
        ]
