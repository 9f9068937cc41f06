import pytest

from sightline.detect.config import DetectConfig
from sightline.errors import SettingsError


@pytest.mark.parametrize("preset", ["seed", "paper", "mri", "demo"])
def test_every_preset_is_accepted(preset):
    DetectConfig.from_values({"preset": preset})


def test_image_sizes_and_ranges_are_checked_all_at_once():
    with pytest.raises(SettingsError, match=r"rejects 3 settings: .*image_size_px.*32") as caught:
        DetectConfig.from_values({"image_size_px": 100, "learning_rate": 0, "optimizer": "auto"})
    assert "learning_rate" in str(caught.value)
    assert "optimizer" in str(caught.value)
