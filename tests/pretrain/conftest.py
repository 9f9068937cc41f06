import numpy as np
import pytest

from sightline.pretrain import PretrainConfig


@pytest.fixture
def tiny_settings():
    """Settings that train ResNet-18 in about a second, on images without groups."""
    return {
        "preset": "demo",
        "image_size": 32,
        "global_batch_size": 8,
        "epochs": 2,
        "exclude_group_negatives": False,
        "precision": "float32",
    }


@pytest.fixture
def tiny_config(tiny_settings):
    return PretrainConfig.from_values(tiny_settings)


@pytest.fixture
def noise_images():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (36, 40, 3), dtype=np.uint8) for _ in range(17)]
