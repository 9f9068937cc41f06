import math

import pytest
import torch
from torch import nn

from sightline.training.optimizers import build_optimizer


def step_with_gradient(optimizer, parameter, gradient):
    parameter.grad = torch.tensor(gradient)
    optimizer.step()


def test_adam_puts_the_weight_decay_into_the_gradient():
    weight = nn.Parameter(torch.tensor([[4.0]]))
    optimizer = build_optimizer("adam", [("weight", weight)], 0.1, weight_decay=0.01)
    step_with_gradient(optimizer, weight, [[0.0]])
    # Adam's first step has the length of the learning rate, whatever the gradient's size.
    assert weight.item() == pytest.approx(3.9, abs=1e-6)


def test_adamw_shrinks_the_weights_beside_the_gradient():
    weight = nn.Parameter(torch.tensor([[4.0]]))
    optimizer = build_optimizer("adamw", [("weight", weight)], 0.1, weight_decay=0.01)
    step_with_gradient(optimizer, weight, [[0.0]])
    assert weight.item() == pytest.approx(4.0 * (1 - 0.1 * 0.01), abs=1e-6)


def test_sgd_keeps_a_share_of_its_last_step():
    weight = nn.Parameter(torch.tensor([[1.0]]))
    optimizer = build_optimizer("sgd", [("weight", weight)], 0.1, weight_decay=0.0, momentum=0.5)
    step_with_gradient(optimizer, weight, [[1.0]])
    step_with_gradient(optimizer, weight, [[0.0]])
    assert weight.item() == pytest.approx(1.0 - 0.1 - 0.05)


def test_lars_scales_a_step_by_the_norms_of_weight_and_gradient():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = build_optimizer("lars", [("weight", weight)], 2.0, weight_decay=0.1, momentum=0.9)
    step_with_gradient(optimizer, weight, [[0.0, 1.0]])
    # With decay the gradient is (0.3, 1.4); the weight's norm is 5, the trust 0.001.
    rate = 2.0 * 0.001 * 5 / math.hypot(0.3, 1.4)
    first_step = [rate * 0.3, rate * 1.4]
    moved = [3.0 - first_step[0], 4.0 - first_step[1]]
    assert weight[0].tolist() == pytest.approx(moved, rel=1e-6)

    step_with_gradient(optimizer, weight, [[0.0, 0.0]])
    # Only the decay is left: its norm is a tenth of the weight's, so the ratio is 0.001 * 10.
    second_step = [0.9 * s + 2.0 * 0.01 * 0.1 * w for s, w in zip(first_step, moved, strict=True)]
    assert weight[0].tolist() == pytest.approx(
        [moved[0] - second_step[0], moved[1] - second_step[1]], rel=1e-6
    )


def test_lars_neither_decays_nor_scales_biases_and_batch_norm():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = build_optimizer("lars", network, 0.5, weight_decay=0.1)
    vectors = [p for p in network.parameters() if p.ndim == 1]
    before = [p.detach().clone() for p in vectors]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert len(vectors) == 3
    for old, new in zip(before, vectors, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.5)


def test_frozen_parameters_are_left_out():
    network = nn.Linear(2, 2)
    network.weight.requires_grad_(False)
    optimizer = build_optimizer("adam", network, 0.1, 0.0)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [network.bias]
