import pytest
import torch
from torchvision.transforms import v2

from sightline.data import derived_seed
from sightline.pretrain import PretrainConfig, SimCLRViews
from sightline.pretrain.augment import SeparableGaussianBlur


def draw_photo(side=96, seed=0):
    """A smooth colourful image: noise would hide errors of interpolation."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8)


def test_views_are_torchvisions_own_with_the_users_settings():
    photo = draw_photo()
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(224, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 1.0),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 1.0),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    views = SimCLRViews(PretrainConfig(seed=3))
    for index in range(6):
        for number, view in enumerate(views(photo, epoch=2, index=index)):
            torch.manual_seed(derived_seed(3, 2, index, number))
            expected = reference(photo)
            # The two ways to sum 529 products differ in rounding: at most one level of 255.
            torch.testing.assert_close(view, expected, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 5.0])
def test_separable_blur_equals_torchvisions(sigma):
    photo = draw_photo(40)
    fast, slow = SeparableGaussianBlur(23, (sigma, sigma)), v2.GaussianBlur(23, (sigma, sigma))
    difference = fast(photo).int() - slow(photo).int()
    assert difference.abs().max() <= 1


def test_a_view_depends_on_seed_epoch_image_and_view_and_on_nothing_else():
    photo = draw_photo()
    config = PretrainConfig(image_size=32, seed=1)
    first, second = SimCLRViews(config)(photo, 1, 5)
    torch.rand(100)
    again, _ = SimCLRViews(config)(photo, 1, 5)
    assert torch.equal(first, again)
    others = [
        second,
        SimCLRViews(config)(photo, 2, 5)[0],
        SimCLRViews(config)(photo, 1, 6)[0],
        SimCLRViews(PretrainConfig(image_size=32, seed=2))(photo, 1, 5)[0],
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_drawing_views_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SimCLRViews(PretrainConfig(image_size=32))(draw_photo(), 1, 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("preset", ["seed", "paper", "mri", "demo"])
def test_views_are_floats_between_0_and_1_of_the_asked_size(preset):
    config = PretrainConfig.from_values({"preset": preset})
    for view in SimCLRViews(config)(draw_photo(64), 1, 0):
        assert view.shape == (3, config.image_size, config.image_size)
        assert view.dtype == torch.float32
        assert 0 <= view.min() < view.max() <= 1


def test_presets_for_gray_images_keep_gray_gray():
    gray = draw_photo()[:1].expand(3, -1, -1).contiguous()
    for preset in ("mri", "demo"):
        view, _ = SimCLRViews(PretrainConfig.from_values({"preset": preset}))(gray, 1, 0)
        assert torch.equal(view[0], view[1])
        assert torch.equal(view[1], view[2])
