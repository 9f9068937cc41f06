import pytest
import torch
from torch import nn

from sightline.training import distributed


def test_a_lone_process_is_rank_0_of_1_and_changes_nothing():
    tensor = torch.ones(2, 3, requires_grad=True)
    network = nn.Linear(1, 1)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main()
    assert torch.equal(distributed.all_gather(tensor), tensor)
    assert torch.equal(distributed.own_part(tensor), tensor)
    assert torch.equal(distributed.all_reduce_mean(tensor), torch.ones(2, 3))
    assert torch.equal(distributed.all_reduce_max(tensor), torch.ones(2, 3))
    assert distributed.data_parallel(network, torch.device("cpu")) is network


@pytest.mark.parametrize(
    "text",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:82] Timed out waiting "
        "15000ms for recv operation to complete",
        # What a rank met whose peer was stopped in the middle of a broadcast; seen once in many.
        "Application timeout caused pair closure",
        "Connection closed by peer [127.0.0.1]:45123",
    ],
)
def test_an_error_of_gloo_means_that_another_process_is_lost(text):
    assert distributed.is_lost_peer(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)"),
        ValueError("Connection closed by peer"),
    ],
)
def test_an_error_of_the_workers_own_is_no_lost_process(error):
    assert not distributed.is_lost_peer(error)
