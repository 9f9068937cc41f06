"""Batches in passes against the whole batch, in float64; by two processes: tests/gloo."""

import copy

import pytest
import torch
from torch import nn

import sightline.pretrain.train
from sightline.pretrain import PretrainConfig, nt_xent_loss, pretrain
from sightline.pretrain.gradient_cache import backward_in_passes, divide
from sightline.pretrain.train import ContrastiveNetwork

IMAGES = 12
GROUPS = torch.tensor([0, 1, 1, 2, 0, 3, 4, 4, 5, 6, 7, 0])
# One pass, passes that divide the batch, and passes that do not.
SIZES = ([12], [4, 4, 4], [5, 5, 2], [1, 11], [1] * 12)


def build_network(batch_norm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 6),
        nn.BatchNorm1d(6, momentum=None) if batch_norm else nn.Identity(),
    ).double()


def draw_views(size=6):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, IMAGES, 3, size, size, generator=generator, dtype=torch.float64)


def shuffled_passes(sizes):
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(2))
    return list(order.split(sizes))


def learn_in_passes(network, views, passes, temperature, grouped):
    groups = GROUPS[torch.cat(passes)] if grouped else None
    loss, projections = backward_in_passes(
        network,
        passes,
        lambda images: network(views[:, images].flatten(0, 1)),
        lambda first, second: nt_xent_loss(first, second, temperature, groups),
    )
    return loss, projections, {name: p.grad for name, p in network.named_parameters()}


def learn_apart(network, views, passes, temperature, grouped):
    """Return loss and gradients where all passes are part of one graph, each by itself."""
    parts = [network(views[:, images].flatten(0, 1)).chunk(2) for images in passes]
    first, second = (torch.cat(part) for part in zip(*parts, strict=True))
    groups = GROUPS[torch.cat(passes)] if grouped else None
    loss = nt_xent_loss(first, second, temperature, groups)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in network.named_parameters()}


def require_equal(found, expected):
    """Compare to 1e-6 of each tensor's own largest value; in float64 it is far less."""
    for name, tensor in expected.items():
        atol = 1e-6 * tensor.abs().max().item()
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_passes_give_the_loss_and_gradients_of_the_whole_batch(sizes, temperature, grouped):
    views, whole = draw_views(), [torch.arange(IMAGES)]
    expected = learn_apart(build_network(False), views, whole, temperature, grouped)
    passes = shuffled_passes(sizes)
    network = build_network(False)
    loss, projections, gradients = learn_in_passes(network, views, passes, temperature, grouped)
    torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
    require_equal(gradients, expected[1])
    seen = views[:, torch.cat(passes)].flatten(0, 1)
    torch.testing.assert_close(projections, network(seen).detach(), rtol=1e-10, atol=1e-12)


def test_passes_give_the_gradients_of_a_whole_batch_through_a_resnet():
    config = PretrainConfig(image_size=32)
    network = without_batch_norm(ContrastiveNetwork(config)).double()
    views, other = draw_views(32), copy.deepcopy(network)
    expected = learn_apart(network, views, [torch.arange(IMAGES)], 0.07, True)
    loss, _, gradients = learn_in_passes(other, views, shuffled_passes([5, 5, 2]), 0.07, True)
    torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
    require_equal(gradients, expected[1])


@pytest.mark.parametrize("temperature", [0.01, 0.07])
@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_batch_norm_normalises_each_pass_by_itself_and_follows_it_once(sizes, temperature):
    views, passes = draw_views(), shuffled_passes(sizes)
    reference, network = build_network(True), build_network(True)
    expected = learn_apart(reference, views, passes, temperature, True)
    loss, _, gradients = learn_in_passes(network, views, passes, temperature, True)
    torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
    require_equal(gradients, expected[1])
    assert network[1].num_batches_tracked == len(passes)
    torch.testing.assert_close(network.state_dict(), reference.state_dict(), rtol=0, atol=0)
    assert network[1].track_running_stats
    assert network[5].track_running_stats


def test_passes_take_equally_from_each_lane():
    # Lane after lane: images 0 to 4, 5 to 9, 10 to 14.
    passes = divide(images=15, lanes=3, passes=2)
    assert [images.tolist() for images in passes] == [
        [0, 1, 2, 5, 6, 7, 10, 11, 12],
        [3, 4, 8, 9, 13, 14],
    ]
    (whole,) = divide(images=15, lanes=3, passes=1)
    assert whole.tolist() == list(range(15))


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "yolo12n"])
def test_no_encoder_draws_random_numbers_so_both_passes_are_alike(encoder):
    if encoder.startswith("yolo"):
        pytest.importorskip("ultralytics")
    config = PretrainConfig(encoder=encoder, image_size=64, projection_batch_norm=True)
    network = ContrastiveNetwork(config).train()
    views = draw_views(64)[0].float()
    before = torch.get_rng_state()
    with torch.no_grad():
        first = network(views)
    assert torch.equal(network(views), first)
    assert torch.equal(torch.get_rng_state(), before)


def without_batch_norm(network):
    """Let each image be normalised by itself, in place; no image then sees another."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return network


@pytest.mark.parametrize("grouped", [False, True])
def test_a_training_in_passes_has_the_losses_of_one_without(
    noise_images, tiny_settings, monkeypatch, grouped
):
    build = sightline.pretrain.train.build_encoder
    monkeypatch.setattr(
        "sightline.pretrain.train.build_encoder", lambda *a: without_batch_norm(build(*a))
    )
    # SGD: Adam makes a whole step of a gradient that is rounding alone.
    values = {**tiny_settings, "projection_batch_norm": False, "optimizer": "sgd", "lanes": 2}
    values |= {"learning_rate": 0.05, "exclude_group_negatives": grouped}
    groups = [f"patient {index // 2}" for index in range(len(noise_images))]
    found = [
        pretrain(noise_images, PretrainConfig.from_values({**values, "images_per_pass": n}), groups)
        for n in (0, 2, 6)
    ]
    assert len(set(found[0].step_losses)) == 4
    for other in found[1:]:
        assert other.step_losses == pytest.approx(found[0].step_losses, rel=1e-5)
        assert other.embedding_std == pytest.approx(found[0].embedding_std, rel=2e-3)
        assert other.chance_loss == pytest.approx(found[0].chance_loss)


def test_passes_of_the_whole_batch_change_no_bit(noise_images, tiny_settings):
    one, other = (
        pretrain(noise_images, PretrainConfig.from_values({**tiny_settings, "images_per_pass": n}))
        for n in (0, 8)
    )
    assert one.step_losses == other.step_losses


def test_with_batch_norm_passes_change_the_result(noise_images, tiny_settings):
    values = {**tiny_settings, "lanes": 2, "epochs": 1}
    one, other = (
        pretrain(noise_images, PretrainConfig.from_values({**values, "images_per_pass": n}))
        for n in (0, 4)
    )
    assert one.first_loss != pytest.approx(other.first_loss, rel=1e-5)
