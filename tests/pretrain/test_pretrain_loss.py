import math

import pytest
import torch
import torch.nn.functional as F

from sightline.pretrain import nt_xent_loss
from sightline.pretrain.loss import chance_loss


def plain_nt_xent(first, second, temperature, groups=None):
    """Equation 1 of arXiv:2002.05709, one exponential at a time."""
    z = [row.tolist() for row in torch.cat([first, second])]
    count = len(first)
    groups = list(groups) * 2 if groups is not None else list(range(count)) * 2

    def similarity(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        candidates = [k for k in range(2 * count) if k == partner or groups[k] != groups[i]]
        below = sum(math.exp(similarity(z[i], z[k]) / temperature) for k in candidates)
        total -= math.log(math.exp(similarity(z[i], z[partner]) / temperature) / below)
    return total / (2 * count)


def random_views(count=5, width=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, count, width, generator=generator, dtype=torch.float64)


@pytest.fixture
def small_tiles(monkeypatch):
    """Four views a tile, so that a few images fill several tiles and leave an uneven last one."""
    monkeypatch.setattr("sightline.pretrain.loss._TILE", 4)


def naive_nt_xent(first, second, temperature, groups):
    """The whole table at once, for autograd."""
    views = F.normalize(torch.cat([first, second]), dim=1)
    partners = torch.arange(len(views)).roll(len(first))
    left_out = groups.repeat(2)[:, None] == groups.repeat(2)
    left_out[torch.arange(len(views)), partners] = False
    logits = (views @ views.T / temperature).masked_fill(left_out, -torch.inf)
    return F.cross_entropy(logits, partners)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.03, 0.07, 1.0])
def test_tiles_give_the_loss_and_gradient_of_the_whole_table(temperature, grouped):
    first, second = random_views(count=9)
    groups = torch.arange(9) % 5 if grouped else torch.arange(9)
    first.requires_grad_(), second.requires_grad_()
    expected = naive_nt_xent(first, second, temperature, groups)
    found = nt_xent_loss(first, second, temperature, groups if grouped else None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, [first, second]),
        torch.autograd.grad(3 * expected, [first, second]),
        rtol=1e-8,
        atol=1e-12,
    )


@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.07])
def test_partners_that_point_apart_cost_what_they_should_in_float32(temperature):
    # All negatives at cosine 1 and the partner at -1: the dearest batch there is.
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = nt_xent_loss(first, -first, temperature)
    assert loss.item() == pytest.approx(
        2 / temperature + math.log(1 + 2 * math.exp(-2 / temperature)), rel=1e-6
    )
    alike = torch.eye(2)
    assert nt_xent_loss(alike, -alike, temperature).isfinite()


def test_every_logit_far_below_the_bound_is_still_told_apart():
    # The four cosines lie at or below 0, where exp(logit - 1 / temperature) is 0 in float32.
    first = torch.eye(4, dtype=torch.float64)
    expected = plain_nt_xent(first, -first, 0.01)
    assert nt_xent_loss(first.float(), -first.float(), 0.01).item() == pytest.approx(expected)


def test_loss_equals_the_definitions_of_lightly_and_of_solo_learn():
    """Two published forms of one loss: cross entropy without the diagonal, and exp, sum, log.

    lightly's `NTXentLoss` drops each anchor's own column and asks for the partner's; solo-learn's
    `simclr_loss_func` sums the exponentials of all pairs that are no positives, and adds them to
    the positive's.
    """
    first, second = random_views(count=6)
    views, n, temperature = F.normalize(torch.cat([first, second]), dim=1), 6, 0.2
    similarities = views @ views.T / temperature
    others = similarities[~torch.eye(2 * n, dtype=torch.bool)].view(2 * n, -1)
    columns = torch.cat([torch.arange(n) + n - 1, torch.arange(n)])
    lightly = F.cross_entropy(others, columns)
    index = torch.arange(n).repeat(2)
    exponentials = similarities.exp()
    positives = (index[:, None] == index) & ~torch.eye(2 * n, dtype=torch.bool)
    negatives = index[:, None] != index
    positive = (exponentials * positives).sum(dim=1)
    solo_learn = -(positive / (positive + (exponentials * negatives).sum(dim=1))).log().mean()
    found = nt_xent_loss(first, second, temperature)
    torch.testing.assert_close(found, lightly)
    torch.testing.assert_close(found, solo_learn)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_loss_equals_the_formula_of_the_paper(temperature):
    first, second = random_views()
    expected = plain_nt_xent(first, second, temperature)
    assert nt_xent_loss(first, second, temperature).item() == pytest.approx(expected, rel=1e-10)


def test_images_of_one_group_are_no_negatives_of_each_other():
    first, second = random_views()
    groups = torch.tensor([0, 0, 1, 2, 1])
    expected = plain_nt_xent(first, second, 0.2, groups.tolist())
    found = nt_xent_loss(first, second, 0.2, groups)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_a_batch_of_one_group_has_nothing_to_tell_apart():
    first, second = random_views()
    assert nt_xent_loss(first, second, 0.2, torch.zeros(5)).item() == pytest.approx(0, abs=1e-12)


def test_batch_without_signal_costs_the_log_of_its_candidates():
    same = torch.ones(4, 8)
    assert nt_xent_loss(same, same, temperature=0.5).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("images", [2, 5, 64])
def test_chance_without_groups_is_the_log_of_all_candidates(images):
    assert chance_loss(images) == pytest.approx(math.log(2 * images - 1))
    assert chance_loss(images, torch.arange(images)) == pytest.approx(math.log(2 * images - 1))


def test_chance_counts_the_candidates_that_the_groups_of_a_batch_leave():
    # Of 16 views an anchor of the six loses its own and the ten of its neighbours, so 5 are left;
    # the two that stand alone keep 15.
    expected = (6 * math.log(5) + 2 * math.log(15)) / 8
    groups = torch.tensor([7, 7, 2**62, 7, 7, -1, 7, 7])
    assert chance_loss(8, groups) == pytest.approx(expected)


def test_chance_is_what_the_loss_is_where_all_projections_are_equal():
    groups = torch.tensor([0, 1, 1, 2, 0, 0])
    same = torch.ones(6, 8)
    assert nt_xent_loss(same, same, 0.5, groups).item() == pytest.approx(chance_loss(6, groups))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_gradient_is_the_derivative(temperature):
    first, second = (views.requires_grad_() for views in random_views(count=3))
    groups = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent_loss(a, b, temperature), (first, second))
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent_loss(a, b, temperature, groups), (first, second)
    )


def test_length_of_a_projection_does_not_matter():
    first, second = random_views()
    lengths = torch.tensor([[0.1], [1.0], [3.0], [50.0], [1e3]], dtype=torch.float64)
    longer = nt_xent_loss(first * lengths, second, 0.07)
    torch.testing.assert_close(longer, nt_xent_loss(first, second, 0.07))


def test_autocast_does_not_reach_the_similarities():
    first, second = random_views(count=16, width=64).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent_loss(first, second, 0.07)
    assert inside.dtype == torch.float32
    assert inside.item() == nt_xent_loss(first, second, 0.07).item()


def test_single_image_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"at least 2 images, got 1: raise global_batch_size"):
        nt_xent_loss(torch.ones(1, 8), torch.ones(1, 8), temperature=0.5)


def test_views_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"views differ in shape: \(2, 8\), \(3, 8\)"):
        nt_xent_loss(torch.ones(2, 8), torch.ones(3, 8), temperature=0.5)
