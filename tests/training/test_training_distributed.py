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
