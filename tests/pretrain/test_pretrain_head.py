import pytest
import torch
from torch import nn

from sightline.pretrain import ProjectionHead


def test_default_head_is_the_users_two_layers_with_biases_and_no_batch_norm():
    head = ProjectionHead(512, 512, 128)
    reference = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    reference.load_state_dict(
        dict(zip(reference.state_dict(), head.state_dict().values(), strict=True))
    )
    features = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(features), reference(features))
    assert [type(module) for module in head.layers] == [nn.Linear, nn.ReLU, nn.Linear]


def test_batch_norm_takes_the_place_of_the_biases():
    head = ProjectionHead(8, 6, 4, layers=3, batch_norm=True)
    linear = [module for module in head.layers if isinstance(module, nn.Linear)]
    norms = [module for module in head.layers if isinstance(module, nn.BatchNorm1d)]
    assert [module.out_features for module in linear] == [6, 6, 4]
    assert len(norms) == 3
    assert all(module.bias is None for module in linear)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_head_has_as_many_linear_layers_as_asked(layers):
    head = ProjectionHead(8, 6, 4, layers=layers)
    assert sum(isinstance(module, nn.Linear) for module in head.layers) == layers
    assert head(torch.zeros(2, 8)).shape == (2, 4)
