import pytest

from sightline.errors import SettingsError
from sightline.promote.config import PromoteConfig
from sightline.promote.gate import Gate, judge


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        (0.50, None, True),
        (0.49, None, False),
        (0.85, 0.80, True),  # 0.85 - 0.80 is 0.04999999999999993 in binary
        (0.84, 0.80, False),
        (0.49, 0.10, False),
        (None, 0.80, False),
    ],
)
def test_gate_with_floor_half_and_margin_a_twentieth(challenger, champion, promoted):
    assert judge(Gate("accuracy", 0.5, 0.05), challenger, champion).promoted is promoted


def test_without_margin_a_tie_promotes_nobody():
    gate = Gate("accuracy", 0.5, 0.0)
    assert not judge(gate, 0.8, 0.8).promoted
    assert judge(gate, 0.8001, 0.8).promoted


def test_each_task_has_its_own_metric():
    assert PromoteConfig().metric == "balanced_accuracy"
    assert PromoteConfig(task="detection").metric == "map50_95"
    with pytest.raises(SettingsError, match="accuracy does not exist for task detection"):
        PromoteConfig.from_values({"task": "detection", "gate_metric": "accuracy"})


def test_name_that_would_leave_the_store_is_refused():
    with pytest.raises(SettingsError, match="name"):
        PromoteConfig.from_values({"name": "../other"})
