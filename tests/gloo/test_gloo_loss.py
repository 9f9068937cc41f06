"""Two real processes against one: the loss and every gradient, in float64."""

import pytest
import torch
from torch import nn
from two_processes import CPU, WORLD_SIZE, run_in_two_processes

from sightline.pretrain import nt_xent_loss
from sightline.training import distributed

IMAGES = 6
TEMPERATURE = 0.1


def build_network():
    """An encoder without BatchNorm, whose statistics would differ between the processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).double()


def draw_batch():
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(2, IMAGES, 3, 2, 2, generator=generator, dtype=torch.float64)
    return views, torch.tensor([0, 1, 1, 2, 0, 3])


def train_one_step(network, views, groups):
    first, second = network(torch.cat([views[0], views[1]])).chunk(2)
    loss = nt_xent_loss(first, second, TEMPERATURE, groups)
    loss.backward()
    return distributed.all_reduce_mean(loss)


def work(rank):
    assert (distributed.rank(), distributed.world_size()) == (rank, WORLD_SIZE)
    assert distributed.is_main() == (rank == 0)
    views, groups = draw_batch()
    share = slice(rank * IMAGES // WORLD_SIZE, (rank + 1) * IMAGES // WORLD_SIZE)
    found = {}
    for name, own_groups in (("plain", None), ("groups", groups[share])):
        network = build_network()
        trained = distributed.data_parallel(network, CPU)
        loss = train_one_step(trained, views[:, share], own_groups)
        found[name] = (loss, [p.grad for p in network.parameters()])
    found["gathered"] = distributed.all_gather(torch.tensor([[rank, rank]]))
    return found


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    return run_in_two_processes(work, tmp_path_factory.mktemp("two-processes"))


@pytest.mark.parametrize("case", ["plain", "groups"])
def test_two_processes_compute_the_loss_and_gradients_of_one(found_by_two, case):
    views, groups = draw_batch()
    network = build_network()
    expected_loss = train_one_step(network, views, groups if case == "groups" else None)
    for found in found_by_two:
        loss, gradients = found[case]
        torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-6)
        for gradient, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-9)


def test_gathered_parts_stand_in_the_order_of_the_ranks(found_by_two):
    for found in found_by_two:
        assert found["gathered"].tolist() == [[0, 0], [1, 1]]
