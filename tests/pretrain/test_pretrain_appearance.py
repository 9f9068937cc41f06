import numpy as np
import pytest
import torch
from photos import as_tensor, draw_photo
from torchvision.transforms.v2 import functional as TF

from sightline.pretrain import PretrainConfig
from sightline.pretrain.appearance import (
    ColourChange,
    ShapedView,
    paint,
    paint_batch,
    stack_changes,
)
from sightline.pretrain.fast_views import MAX_CHANGES, FastViews

TORCHVISION = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
}


def painted(pixels, changes, sigma_px=0.0):
    drawn = [ColourChange(*change) for change in changes]
    return paint(ShapedView(pixels, drawn, sigma_px), 23)


@pytest.mark.parametrize(
    "changes",
    [
        [("brightness", 1.3)],
        [("contrast", 0.4)],
        [("contrast", 1.5)],
        [("saturation", 0.0)],
        [("saturation", 1.6)],
        [("contrast", 0.5), ("brightness", 1.4), ("saturation", 0.3)],
        [("saturation", 1.5), ("brightness", 0.6), ("contrast", 1.4)],
        # Cut at 255 first, and only then brought closer together.
        [("brightness", 1.8), ("contrast", 0.3)],
        [("contrast", 1.8), ("brightness", 1.7), ("saturation", 0.5), ("saturation", 0.0)],
    ],
)
def test_changes_of_colour_are_torchvisions_in_any_order(changes):
    photo = draw_photo(64)
    expected = as_tensor(photo)
    for kind, amount in changes:
        expected = TORCHVISION[kind](expected, amount)
    difference = as_tensor(painted(photo, changes)).int() - expected.int()
    # torchvision rounds down after each change, and its weights of luminance sum to 0.9999.
    assert difference.abs().max() <= 1 + len(changes)
    assert abs(difference.float().mean()) <= 0.3 + 0.7 * len(changes)


@pytest.mark.parametrize("share", [-1 / 3, 1 / 3])
def test_a_third_of_the_colour_circle_turns_each_primary_into_the_next_as_torchvision_does(share):
    for channel in range(3):
        patch = np.full((4, 4, 3), 100, np.uint8)
        patch[:, :, channel] = 140
        expected = TF.adjust_hue(as_tensor(patch), share)[:, 0, 0].argmax().item()
        assert painted(patch, [("hue", share)])[0, 0].argmax() == expected


def test_turning_the_hue_keeps_the_luminance_and_a_whole_turn_changes_nothing():
    photo = draw_photo(64, low=90, high=160)
    luma = np.array([0.299, 0.587, 0.114])
    turned = painted(photo, [("hue", 0.2)])
    assert np.abs(turned.astype(int) - photo).max() > 10
    np.testing.assert_allclose(turned @ luma, photo @ luma, atol=0.6)
    np.testing.assert_allclose(painted(photo, [("hue", 1.0)]), photo, atol=1)


def test_no_change_and_no_blur_leave_the_picture_as_it_is():
    photo = draw_photo(64)
    np.testing.assert_array_equal(painted(photo, []), photo)


def test_colours_are_cut_to_the_range_of_a_byte():
    photo = draw_photo(64)
    assert painted(photo, [("brightness", 5.0)]).max() == 255
    assert painted(photo, [("contrast", 9.0)]).min() == 0


def test_a_gray_picture_is_painted_as_its_three_equal_channels():
    gray = draw_photo(64)[:, :, 1].copy()
    changes = [("brightness", 1.2), ("hue", 0.1), ("contrast", 0.7), ("saturation", 0.2)]
    found = painted(gray, changes, 1.1)
    expected = painted(np.stack([gray] * 3, axis=2), changes, 1.1)
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("sigma_px", [0.1, 0.3, 0.7, 1.3, 2.0, 4.0])
def test_blur_equals_torchvisions(sigma_px):
    photo = draw_photo(64)
    photo[20:40, 20:40] = (255, 0, 90)  # an edge
    found = as_tensor(painted(photo, [], sigma_px))
    expected = TF.gaussian_blur(as_tensor(photo), [23, 23], [sigma_px, sigma_px])
    difference = (found.int() - expected.int()).abs()
    # The kernel ends at 3 standard deviations, beyond which 0.27 % of its weight lies.
    assert difference.max() <= 3
    assert difference.float().mean() < 0.3


@pytest.mark.parametrize("preset", ["seed", "paper", "mri"])
def test_a_batch_is_painted_on_a_device_as_each_view_is_by_opencv(preset):
    config = PretrainConfig.from_values({"preset": preset, "image_size": 64})
    draw = FastViews(config)
    views = [draw(draw_photo(80, index), 1, index, 0) for index in range(12)]
    found = paint_batch(
        torch.stack([as_tensor(view.pixels) for view in views]),
        torch.from_numpy(np.stack([stack_changes(v.changes, MAX_CHANGES) for v in views])),
        torch.tensor([view.sigma_px for view in views]),
        config.blur_kernel_px,
    )
    for one, view in zip(found, views, strict=True):
        expected = as_tensor(paint(view, config.blur_kernel_px))
        assert (one.int() - expected.int()).abs().max() <= 3
        assert (one.int() - expected.int()).abs().float().mean() < 0.5
