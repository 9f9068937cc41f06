"""Two real processes whose batches go through the network in passes, against one."""

import numpy as np
import pytest
import torch
from torch import nn
from two_processes import CPU, WORLD_SIZE, run_in_two_processes

from sightline.pretrain import PretrainConfig, nt_xent_loss, pretrain
from sightline.pretrain.gradient_cache import backward_in_passes
from sightline.training import distributed
from sightline.training.batch_norm import synchronise_batch_norms

IMAGES = 12
GROUPS = torch.tensor([0, 1, 1, 2, 0, 3, 4, 4, 5, 6, 7, 0])
# Each process has 6 images: passes that divide them, and passes that do not.
SIZES = {"even": [3, 3], "uneven": [4, 2], "single": [1] * 6}
CASES = [
    (batch_norm, sizes, temperature, grouped)
    for batch_norm in ("none", "synchronised", "per_worker")
    for sizes in SIZES
    for temperature in (0.01, 0.07)
    for grouped in (False, True)
]


def build_network(batch_norm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.Identity() if batch_norm == "none" else nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 6),
        nn.Identity() if batch_norm == "none" else nn.BatchNorm1d(6, momentum=None),
    ).double()


def draw_views():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, IMAGES, 3, 6, 6, generator=generator, dtype=torch.float64)


def share_of(rank):
    return slice(rank * IMAGES // WORLD_SIZE, (rank + 1) * IMAGES // WORLD_SIZE)


def work(rank):
    views, groups = draw_views()[:, share_of(rank)], GROUPS[share_of(rank)]
    found = {}
    for case in CASES:
        batch_norm, sizes, temperature, grouped = case
        network = build_network(batch_norm)
        if batch_norm == "synchronised":
            synchronise_batch_norms(network)
        trained = distributed.data_parallel(network, CPU)
        # Twice: the second step meets what the first has left in the data-parallel wrapper.
        for _ in range(2):
            network.zero_grad()
            loss, _ = backward_in_passes(
                trained,
                torch.arange(len(groups)).split(SIZES[sizes]),
                lambda images, trained=trained: trained(views[:, images].flatten(0, 1)),
                lambda first, second, temperature=temperature, grouped=grouped: nt_xent_loss(
                    first, second, temperature, groups if grouped else None
                ),
            )
        gradients = {name: p.grad for name, p in network.named_parameters()}
        found[case] = {"loss": loss, "gradients": gradients, "state": network.state_dict()}
    return found


def learn_alone(batch_norm, sizes, temperature, grouped):
    """Return what one process computes in one graph, each part normalised by itself."""
    whole = torch.arange(IMAGES)
    shares = [whole[share_of(rank)].split(SIZES[sizes]) for rank in range(WORLD_SIZE)]
    parts = {
        "none": [whole],
        "synchronised": [torch.cat(both) for both in zip(*shares, strict=True)],
        "per_worker": [part for share in shares for part in share],
    }[batch_norm]
    network, views = build_network(batch_norm), draw_views()
    for _ in range(2):
        network.zero_grad()
        seen = [network(views[:, part].flatten(0, 1)).chunk(2) for part in parts]
        first, second = (torch.cat(views) for views in zip(*seen, strict=True))
        groups = GROUPS[torch.cat(parts)] if grouped else None
        loss = nt_xent_loss(first, second, temperature, groups)
        loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"loss": loss.detach(), "gradients": gradients, "state": network.state_dict()}


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    return run_in_two_processes(work, tmp_path_factory.mktemp("two-processes"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_processes_in_passes_compute_the_loss_and_gradients_of_one(found_by_two, case):
    expected = learn_alone(*case)
    for found in (found[case] for found in found_by_two):
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-9, atol=0)
        for name, gradient in expected["gradients"].items():
            # A bias before BatchNorm has no gradient but rounding.
            atol = max(1e-6 * gradient.abs().max().item(), 1e-12)
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=atol)
        if case[0] == "synchronised":
            torch.testing.assert_close(found["state"], expected["state"], rtol=1e-9, atol=1e-12)


def first_loss(workers):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(12)]
    # Three images of each lane: three passes.
    config = PretrainConfig(
        image_size=32,
        global_batch_size=12,
        epochs=1,
        lanes=4,
        images_per_pass=4,
        projection_batch_norm=True,
        workers=workers,
    )
    return pretrain(images, config).first_loss


def first_loss_here(rank):
    return first_loss(WORLD_SIZE)


def test_a_pass_of_two_workers_holds_the_images_of_one_worker(tmp_path):
    # BatchNorm tells: one image in another pass moves the loss by far more.
    alone = first_loss(1)
    assert run_in_two_processes(first_loss_here, tmp_path) == pytest.approx([alone] * 2, rel=1e-5)
