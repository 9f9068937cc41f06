import subprocess
import sys

import pytest

from sightline.errors import SettingsError
from sightline.pretrain.config import PretrainConfig, PretrainUris


def test_defaults_are_the_users_settings():
    config = PretrainConfig()
    asked = {
        "encoder": "resnet18",
        "image_size": 224,
        "crop_scale_min": 0.2,
        "crop_scale_max": 1.0,
        "flip_probability": 0.5,
        "rotation_degrees": 0,
        "jitter_brightness": 0.8,
        "jitter_contrast": 0.8,
        "jitter_saturation": 0.8,
        "jitter_hue": 0.2,
        "jitter_probability": 1,
        "grayscale_probability": 0.2,
        "blur_kernel_px": 23,
        "blur_sigma_min": 0.1,
        "blur_sigma_max": 2.0,
        "blur_probability": 1,
        "temperature": 0.07,
        "projection_hidden": 512,
        "projection_out": 128,
        "projection_layers": 2,
        "projection_batch_norm": False,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "global_batch_size": 32,
        "epochs": 100,
        "warmup_epochs": 0,
        "workers": 1,
    }
    assert {name: getattr(config, name) for name in asked} == asked
    assert config.mean == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("preset", ["seed", "paper", "mri", "demo"])
def test_every_preset_holds_valid_settings(preset):
    PretrainConfig.from_values({"preset": preset})


def test_every_preset_name_is_there():
    assert list(PretrainConfig.presets) == ["seed", "paper", "mri", "demo"]


def test_every_setting_says_what_it_is():
    for cls in (PretrainConfig, PretrainUris):
        assert all(field.description for field in cls.model_fields.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur_kernel_px": 4}, "blur_kernel_px must be odd, got 4"),
        ({"image_size": 32, "blur_kernel_px": 65}, "must be below twice image_size, got 65 and 32"),
        ({"blur_sigma_min": 3}, "blur_sigma_min must not exceed blur_sigma_max, got 3.0 and 2.0"),
        ({"crop_scale_max": 0.1}, "crop_scale_min must not exceed crop_scale_max"),
        ({"warmup_epochs": 100}, "warmup_epochs must be fewer than epochs, got 100 and 100"),
        ({"workers": 3}, "global_batch_size must be a multiple of workers, got 32 and 3"),
        (
            {"workers": 2, "lanes": 3},
            r"workers must divide the lanes .*got 2 workers: set lanes to 2",
        ),
        (
            {"workers": 16},
            r"8 of lanes 8 fit global_batch_size 32, got 16 workers: set lanes to 16",
        ),
        (
            {"images_per_pass": 4},
            r"0, or at least the 8 lanes of images, got 4: raise it, or lower lanes",
        ),
        (
            {"images_per_pass": 1, "lanes": 1},
            "images_per_pass must give BatchNorm 2 images or more, .*got 1: raise it",
        ),
        (
            # Each of 8 workers has 4 images, in passes of one.
            {"images_per_pass": 8, "workers": 8, "batch_norm": "per_worker"},
            "images_per_pass must give BatchNorm 2 images or more",
        ),
        ({"lanes": 0}, "lanes: input should be greater than or equal to 1"),
        ({"normalize": "custom", "normalize_std": (1, 0, 1)}, "normalize_std must be above 0"),
        (
            {"normalize_mean": (0, 0, 0)},
            "normalize_mean is used where normalize is custom, got it with imagenet: set normalize",
        ),
        (
            {"preset": "paper", "normalize_std": (1, 1, 1)},
            "normalize_std is used where normalize is custom, got it with none: set normalize",
        ),
        ({"global_batch_size": 1}, "global_batch_size: input should be greater than or equal to 2"),
        ({"temperature": 0}, "temperature: input should be greater than 0"),
        ({"jitter_hue": 0.6}, "jitter_hue: input should be less than or equal to 0.5"),
        ({"temprature": 1}, "did you mean temperature"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        PretrainConfig.from_values(values)


def test_settings_that_clash_are_told_beside_those_that_are_refused_alone():
    values = {
        **{"temperature": 0, "epochs": 0, "epoch": 1},
        **{"blur_kernel_px": 4, "crop_scale_min": 0.9, "crop_scale_max": "0.5"},
        "warmup_epochs": 200,  # too many for the default, but how many epochs are meant is unknown
    }
    with pytest.raises(SettingsError) as caught:
        PretrainConfig.from_values(values)
    assert set(caught.value.problems) == {
        "temperature: input should be greater than 0, got 0",
        "epochs: input should be greater than or equal to 1, got 0",
        "epoch is unknown, did you mean epochs?",
        "blur_kernel_px must be odd, got 4",
        "crop_scale_min must not exceed crop_scale_max, got 0.9 and 0.5",
    }


def test_custom_normalisation_is_what_the_user_gives():
    config = PretrainConfig(normalize="custom", normalize_mean=(0.2, 0.2, 0.2))
    assert config.mean == (0.2, 0.2, 0.2)
    assert PretrainConfig(normalize="none").std == (1, 1, 1)


def test_settings_load_without_torch():
    code = "import sys, sightline.pretrain.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
