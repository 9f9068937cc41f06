import numpy as np
import pytest
import torch

from sightline.finetune.augment import draw_crop, draw_view, steps_per_epoch, training_batches
from sightline.finetune.config import FinetuneConfig

STILL = FinetuneConfig(crop_scale_min=1.0, flip_probability=0.0)


def draw_images(count, side=24):
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_crop_covers_its_share_of_the_area_with_a_ratio_of_3_to_4_and_stays_inside():
    random = np.random.default_rng(0)
    for _ in range(500):
        left, top, right, bottom = draw_crop(200, 160, 0.3, random)
        width, height = right - left, bottom - top
        assert left >= 0
        assert top >= 0
        assert right <= 200
        assert bottom <= 160
        # Sides are whole pixels, so area and ratio miss their limits by a pixel's worth.
        assert width * height >= 0.3 * 200 * 160 * 0.98
        assert 0.74 <= width / height <= 1.36


def test_image_that_no_ratio_fits_is_taken_whole():
    assert draw_crop(400, 10, 1.0, np.random.default_rng(0)) == (0, 0, 400, 10)


def test_view_is_mirrored_as_often_as_asked():
    image = draw_images(1, side=16)[0]
    always = STILL.model_copy(update={"flip_probability": 1.0})
    random = np.random.default_rng(0)
    # Scale 1 leaves a square only one crop of ratio 1, or the whole image after ten tries.
    assert (draw_view(image, 16, always, random) == image[:, ::-1]).all()
    assert (draw_view(image, 16, STILL, random) == image).all()


def test_rotation_turns_within_its_limit():
    image = np.zeros((65, 65, 3), dtype=np.uint8)
    image[:, 32] = 255
    turned = STILL.model_copy(update={"rotation_degrees": 20.0})
    random = np.random.default_rng(1)
    angles = []
    for _ in range(50):
        view = draw_view(image, 65, turned, random)[:, :, 0].astype(float)
        y, x = np.nonzero(view > 100)
        angles.append(np.degrees(np.arctan(np.polyfit(y, x, 1)[0])))
    assert 12 < max(angles) <= 21
    assert -21 <= min(angles) < -12


def test_epoch_shows_every_image_once_in_batches_that_differ_by_one_at_most():
    batches = list(training_batches(draw_images(33), 16, FinetuneConfig(), epoch=1))
    assert [len(places) for _, places in batches] == [17, 16]
    assert sorted(np.concatenate([places for _, places in batches])) == list(range(33))
    assert batches[0][0].shape == (17, 3, 16, 16)
    assert batches[0][0].dtype == torch.uint8


@pytest.mark.parametrize(("images", "expected"), [(2, 1), (32, 1), (33, 2), (64, 2)])
def test_steps_per_epoch_count_the_last_incomplete_batch(images, expected):
    assert steps_per_epoch(images, batch_size=32) == expected


def test_no_batch_holds_a_single_image_which_batchnorm_could_not_learn_from():
    config = FinetuneConfig(batch_size=2)
    assert [len(places) for _, places in training_batches(draw_images(3), 16, config, 1)] == [3]


def test_draws_depend_on_seed_epoch_and_image_alone():
    images = draw_images(8)

    def views(seed, epoch, batch_size):
        config = FinetuneConfig(seed=seed, batch_size=batch_size)
        drawn = {}
        for batch, places in training_batches(images, 16, config, epoch):
            drawn.update({int(place): view for place, view in zip(places, batch, strict=True)})
        return torch.stack([drawn[place] for place in range(8)])

    assert torch.equal(views(0, 1, 2), views(0, 1, 8))
    assert not torch.equal(views(0, 1, 8), views(0, 2, 8))
    assert not torch.equal(views(0, 1, 8), views(1, 1, 8))
