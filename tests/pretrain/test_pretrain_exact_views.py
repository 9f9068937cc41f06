import numpy as np
import pytest
import torch
from photos import as_tensor, draw_photo
from torchvision.transforms import v2

from sightline.data import derived_seed
from sightline.pretrain import PretrainConfig, SimCLRViews
from sightline.pretrain.exact_views import SeparableGaussianBlur


def test_views_are_torchvisions_own_with_the_users_settings():
    photo = draw_photo()
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(224, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 1.0),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 1.0),
        ]
    )
    views = SimCLRViews(PretrainConfig(seed=3, augmentation="exact"))
    for index in range(6):
        for number, view in enumerate(views(photo, epoch=2, index=index)):
            torch.manual_seed(derived_seed(3, 2, index, number))
            expected = reference(as_tensor(photo))
            # The two ways to sum 529 products differ in rounding: at most one level of 255.
            torch.testing.assert_close(as_tensor(view), expected, atol=1, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 5.0])
def test_separable_blur_equals_torchvisions(sigma):
    photo = as_tensor(draw_photo(40))
    fast, slow = SeparableGaussianBlur(23, (sigma, sigma)), v2.GaussianBlur(23, (sigma, sigma))
    difference = fast(photo).int() - slow(photo).int()
    assert difference.abs().max() <= 1


def test_drawing_views_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SimCLRViews(PretrainConfig(image_size=32, augmentation="exact"))(draw_photo(), 1, 0)
    assert torch.equal(torch.rand(1), expected)


def test_a_gray_image_gives_the_views_of_its_three_equal_channels():
    gray = draw_photo()[:, :, 0]
    views = SimCLRViews(PretrainConfig(image_size=32, augmentation="exact"))
    for one, other in zip(
        views(gray, 1, 0), views(np.stack([gray] * 3, axis=2), 1, 0), strict=True
    ):
        np.testing.assert_array_equal(one, other)
