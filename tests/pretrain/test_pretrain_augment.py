import numpy as np
import pytest
from photos import draw_photo

from sightline.pretrain import PretrainConfig, SimCLRViews

both = pytest.mark.parametrize("augmentation", ["fast", "exact"])


@both
def test_a_view_depends_on_seed_epoch_image_and_view_and_on_nothing_else(augmentation):
    photo = draw_photo()
    config = PretrainConfig(image_size=32, seed=1, augmentation=augmentation)
    other_seed = PretrainConfig(image_size=32, seed=2, augmentation=augmentation)
    first, second = SimCLRViews(config)(photo, 1, 5)
    SimCLRViews(config)(photo, 1, 4)
    again, _ = SimCLRViews(config)(photo, 1, 5)
    np.testing.assert_array_equal(first, again)
    others = [
        second,
        SimCLRViews(config)(photo, 2, 5)[0],
        SimCLRViews(config)(photo, 1, 6)[0],
        SimCLRViews(other_seed)(photo, 1, 5)[0],
    ]
    assert not any(np.array_equal(first, other) for other in others)


@both
@pytest.mark.parametrize("preset", ["seed", "paper", "mri", "demo"])
def test_views_are_bytes_of_the_asked_size(preset, augmentation):
    config = PretrainConfig.from_values({"preset": preset, "augmentation": augmentation})
    photo = draw_photo(64)
    before = photo.copy()
    for view in SimCLRViews(config)(photo, 1, 0):
        assert view.shape == (config.image_size, config.image_size, 3)
        assert view.dtype == np.uint8
        assert view.min() < view.max()
    np.testing.assert_array_equal(photo, before)


@both
@pytest.mark.parametrize("preset", ["mri", "demo"])
def test_presets_for_gray_images_keep_gray_gray(preset, augmentation):
    config = PretrainConfig.from_values({"preset": preset, "augmentation": augmentation})
    view, _ = SimCLRViews(config)(draw_photo()[:, :, 0], 1, 0)
    np.testing.assert_array_equal(view[:, :, 0], view[:, :, 1])
    np.testing.assert_array_equal(view[:, :, 1], view[:, :, 2])


@pytest.mark.parametrize("preset", ["seed", "paper", "mri"])
def test_fast_and_exact_views_have_the_same_brightness_contrast_and_sharpness(preset):
    # Over 200 views: a statement about distributions, for their draws differ.
    found = {}
    for augmentation in ("fast", "exact"):
        config = PretrainConfig.from_values(
            {"preset": preset, "image_size": 64, "blur_kernel_px": 9, "augmentation": augmentation}
        )
        draw = SimCLRViews(config)
        photos = [draw_photo(160, seed) for seed in range(5)]
        views = [v / 255 for n in range(100) for v in draw(photos[n % 5], 1, n)]
        found[augmentation] = [
            np.mean(views),
            np.mean([view.std() for view in views]),
            np.mean([np.abs(np.diff(view, axis=0)).mean() for view in views]),
            np.mean([np.ptp(view, axis=2).mean() for view in views]),  # how colourful
        ]
    fast, exact = np.array(found["fast"]), np.array(found["exact"])
    np.testing.assert_allclose(fast, exact, rtol=0.1)
    np.testing.assert_allclose(fast[:2], exact[:2], rtol=0.08)
