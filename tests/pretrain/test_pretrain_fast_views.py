import numpy as np
import pytest
import torch
from photos import as_tensor, draw_photo
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from sightline.data.randomness import derived_uniforms
from sightline.pretrain import PretrainConfig
from sightline.pretrain.fast_views import FastViews, cut_out, draw_crop


def crops(width, height, count=2000):
    return np.array(
        [draw_crop(width, height, 0.2, 1.0, derived_uniforms(40, index)) for index in range(count)]
    )


@pytest.mark.parametrize(("width", "height"), [(256, 256), (341, 256), (64, 200)])
def test_crops_have_the_distribution_of_torchvisions(width, height):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draw = v2.RandomResizedCrop.make_params
    transform = v2.RandomResizedCrop(224, (0.2, 1.0))
    expected = np.array(
        [
            [p["left"], p["top"], p["width"], p["height"]]
            for p in (draw(transform, [image]) for _ in range(2000))
        ]
    )
    found = crops(width, height)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= width).all()
    assert (found[:, 1] + found[:, 3] <= height).all()
    # Standard errors of 2,000 draws are below 2 % of the sides.
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.04 * height)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), atol=0.04 * height)


@pytest.mark.parametrize(
    ("size", "crop"),
    # What torchvision takes where ten tries do not fit: the middle, at a ratio of 4:3 or 3:4.
    [((1000, 30), (480, 0, 40, 30)), ((30, 1000), (0, 480, 30, 40))],
)
def test_an_image_too_narrow_for_any_crop_gives_its_middle(size, crop):
    assert draw_crop(*size, 0.9, 1.0, derived_uniforms(40, 0)) == crop


def test_a_crop_of_the_asked_size_is_cut_out_as_it_is():
    photo = draw_photo(96)
    np.testing.assert_array_equal(cut_out(photo, (10, 20, 32, 32), 0.0, 32), photo[20:52, 10:42])


@pytest.mark.parametrize(("part", "side"), [(40, 64), (60, 56), (90, 30)])
def test_resizing_equals_torchvisions(part, side):
    photo = draw_photo(96)
    found = cut_out(photo, (2, 4, part, part), 0.0, side)
    expected = TF.resized_crop(as_tensor(photo), 4, 2, part, part, [side, side], antialias=True)
    difference = as_tensor(found).int() - expected.int()
    # Rounding, and where little shrinks the missing antialiasing of a smooth image.
    assert difference.abs().float().mean() < 0.5
    assert difference.abs().max() <= 3


@pytest.mark.parametrize("factor", [1.03, 1.1, 1.2, 1.25, 1.6])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_shrinks_keeps_as_much_of_its_grain_as_torchvisions_leaves(factor, channels):
    side = 128
    part = round(side * factor)
    random = np.random.default_rng(0)
    noise = random.normal(128, 30, (part, part, channels)).clip(0, 255).astype(np.uint8)
    found = cut_out(noise.squeeze(), (0, 0, part, part), 0.0, side)
    expected = TF.resize(as_tensor(noise), [side, side], antialias=True)
    assert found.std() == pytest.approx(expected.float().std().item(), rel=0.03)


@pytest.mark.parametrize("degrees", [-20.0, 7.0, 90.0])
def test_turning_equals_torchvisions_rotation_before_the_crop(degrees):
    photo = draw_photo(96)
    found = cut_out(photo, (30, 26, 40, 44), degrees, 40)
    turned = TF.rotate(as_tensor(photo), degrees, TF.InterpolationMode.BILINEAR)
    expected = TF.resized_crop(turned, 26, 30, 44, 40, [40, 40], antialias=True)
    difference = as_tensor(found).int() - expected.int()
    assert difference.abs().float().mean() < 1
    assert difference.abs().max() <= 6


@pytest.mark.parametrize(
    ("setting", "share"), [("flip_probability", 0.3), ("blur_probability", 0.6)]
)
def test_a_probability_is_the_share_of_the_views_that_are_changed(setting, share):
    still = {
        "image_size": 32,
        "crop_scale_min": 1.0,
        "jitter_probability": 0.0,
        "grayscale_probability": 0.0,
        "flip_probability": 0.0,
        "blur_probability": 0.0,
    }
    photo = draw_photo(32)
    draw = FastViews(PretrainConfig.from_values({**still, setting: share}))
    views = [draw(photo, 1, index, 0) for index in range(1000)]
    whole = [view for view in views if view.pixels.std() > 0]
    unchanged = FastViews(PretrainConfig.from_values(still))
    changed = sum(
        not np.array_equal(view.pixels, unchanged(photo, 1, index, 0).pixels) or view.sigma_px > 0
        for index, view in enumerate(whole)
    )
    assert changed / len(whole) == pytest.approx(share, abs=0.05)


def test_the_drawn_blur_lies_between_its_bounds_evenly():
    draw = FastViews(PretrainConfig(image_size=32, blur_sigma_min=0.5, blur_sigma_max=1.5))
    sigmas = [draw(draw_photo(32), 1, index, 1).sigma_px for index in range(500)]
    assert 0.5 <= min(sigmas) < 0.53
    assert 1.47 < max(sigmas) <= 1.5
    assert np.mean(sigmas) == pytest.approx(1.0, abs=0.05)
