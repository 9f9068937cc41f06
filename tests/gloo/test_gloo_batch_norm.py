"""Two and four real processes against one: BatchNorm over the batch of all."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from two_processes import CPU, run_in_processes, run_in_two_processes

from sightline.pretrain import nt_xent_loss
from sightline.training import distributed
from sightline.training.batch_norm import synchronise_batch_norms

IMAGES = 8


def build_network(momentum=0.1, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5, eps=1e-3, momentum=momentum),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 6),
        nn.BatchNorm1d(6, affine=False),
    ).to(dtype)


def draw_batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, IMAGES, 3, 6, 6, generator=generator, dtype=dtype) + 3


def train_one_step(network, views):
    first, second = network(torch.cat([views[0], views[1]])).chunk(2)
    loss = nt_xent_loss(first, second, 0.2)
    loss.backward()
    return loss.detach()


def found_in(network, loss):
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"loss": loss, "gradients": gradients, "state": network.state_dict()}


CASES = {
    "plain": {},
    "cumulative": {"momentum": None},
    "float32": {"dtype": torch.float32},
    "channels_last": {},
}


def views_of(case):
    return draw_batch(CASES[case].get("dtype", torch.float64))


def train_a_share(processes, rank):
    found = {}
    for case, settings in CASES.items():
        network = build_network(**settings)
        synchronise_batch_norms(network)
        if case == "channels_last":
            network = network.to(memory_format=torch.channels_last)
        trained = distributed.data_parallel(network, CPU)
        share = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
        found[case] = found_in(network, train_one_step(trained, views_of(case)[:, share]))
    return found


def work(rank):
    found = train_a_share(2, rank)
    half = nn.BatchNorm2d(3)
    synchronise_batch_norms(half)
    own = draw_batch()[0, rank * 4 : rank * 4 + 4].bfloat16().requires_grad_()
    result = half(own)
    result.square().sum().backward()
    found["bfloat16"] = (result.detach(), own.grad, half.running_mean)
    # 3 images here and 5 there: the weighed mean, not the mean of means.
    norm = nn.BatchNorm1d(4).double()
    synchronise_batch_norms(norm)
    whole = draw_batch()[0, :, 0, 0, :4]
    own = (whole[:3] if rank == 0 else whole[3:]).clone().requires_grad_()
    result = norm(own)
    (result**3).sum().backward()
    found["uneven"] = {"result": result.detach(), "gradient": own.grad, "state": norm.state_dict()}
    return found


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    return run_in_two_processes(work, tmp_path_factory.mktemp("two-processes"))


@pytest.fixture(scope="module")
def found_by_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four-processes")
    return run_in_processes(partial(train_a_share, 4), folder, 4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("processes", ["two", "four"])
def test_processes_compute_the_loss_gradients_and_statistics_of_one(processes, case, request):
    network = build_network(**CASES[case])
    expected = found_in(network, train_one_step(network, views_of(case)))
    # In float32 the gradient of a bias before BatchNorm, which is 0, is rounding alone.
    rtol, atol = (1e-3, 1e-4) if case == "float32" else (1e-6, 1e-9)
    for found in request.getfixturevalue(f"found_by_{processes}"):
        torch.testing.assert_close(found[case], expected, rtol=rtol, atol=atol)


def test_processes_with_unequal_shares_count_every_image_alike(found_by_two):
    norm = nn.BatchNorm1d(4).double()
    whole = draw_batch()[0, :, 0, 0, :4].clone().requires_grad_()
    result = norm(whole)
    (result**3).sum().backward()
    parts = [found["uneven"] for found in found_by_two]
    torch.testing.assert_close(torch.cat([part["result"] for part in parts]), result.detach())
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), whole.grad)
    torch.testing.assert_close(parts[0]["state"], norm.state_dict())


def test_bfloat16_is_normalised_by_statistics_in_float32(found_by_two):
    whole = draw_batch()[0].bfloat16().double()
    mean = whole.mean(dim=(0, 2, 3))
    variance = whole.var(dim=(0, 2, 3), unbiased=False)
    shape = (1, 3, 1, 1)
    expected = (whole - mean.view(shape)) / (variance + 1e-5).sqrt().view(shape)
    found = torch.cat([result for result, _, _ in (part["bfloat16"] for part in found_by_two)])
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0.01, atol=0.01)
    for _, gradient, running_mean in (part["bfloat16"] for part in found_by_two):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(running_mean.double(), 0.1 * mean, rtol=1e-5, atol=0)


def train_on_a_gpu(synchronise, rank):
    network = build_network()
    network = (synchronise(network) or network).to("cuda:0")
    own = draw_batch()[0, rank * 4 : rank * 4 + 4].to("cuda:0").requires_grad_()
    loss = (network(own) ** 3).sum()
    loss.backward()
    everything = {**found_in(network, loss.detach()), "input": own.grad}
    return torch.utils._pytree.tree_map(lambda tensor: tensor.cpu(), everything)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch's layer refuses CPUs")
def test_on_a_gpu_torchs_own_layer_computes_the_same(tmp_path):
    ways = {"own": synchronise_batch_norms, "torch": nn.SyncBatchNorm.convert_sync_batchnorm}
    found = {}
    for name, synchronise in ways.items():
        folder = tmp_path / name
        folder.mkdir()
        found[name] = run_in_two_processes(partial(train_on_a_gpu, synchronise), folder)
    torch.testing.assert_close(found["own"], found["torch"], rtol=1e-9, atol=1e-9)


def test_one_process_and_evaluation_compute_as_before():
    network = build_network()
    synchronised = copy.deepcopy(network)
    synchronise_batch_norms(synchronised)
    assert list(synchronised.state_dict()) == list(network.state_dict())
    views = draw_batch()
    assert torch.equal(synchronised(views[0]), network(views[0]))
    assert torch.equal(synchronised.eval()(views[0]), network.eval()(views[0]))
