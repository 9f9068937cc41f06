import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from sightline.config import StepConfig, nearest_name, read_values
from sightline.errors import SettingsError


class ExampleConfig(StepConfig):
    """Settings of an example."""

    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Divisor of the similarities."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the images."""
    optimizer: Literal["adam", "lars"] = "adam"
    """Optimiser."""
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the labels."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        "paper": {"temperature": 0.5, "epochs": 800},
    }


def problems_of(values):
    with pytest.raises(SettingsError) as caught:
        ExampleConfig.from_values(values)
    return str(caught.value)


def test_all_problems_are_named_at_once_with_the_nearest_name():
    message = problems_of({"temprature": 0.1, "epochs": 0, "optimizer": "adma", "preset": "papr"})
    assert message.startswith("ExampleConfig rejects 4 settings: ")
    assert "temprature is unknown, did you mean temperature?" in message
    assert "epochs: input should be greater than or equal to 1, got 0" in message
    assert "optimizer: input should be 'adam' or 'lars', got 'adma'" in message
    assert "preset 'papr' is unknown, use one of seed, paper" in message


def test_single_problem_is_told_in_the_singular():
    assert problems_of({"temprature": 1}) == (
        "ExampleConfig rejects 1 setting: temprature is unknown, did you mean temperature?"
    )


def test_name_without_a_near_one_points_to_the_class():
    assert "xyz is unknown, see ExampleConfig for all names" in problems_of({"xyz": 1})


def test_entry_of_a_list_is_named_by_its_place():
    assert "shares.1: input should be less than 1, got 3" in problems_of({"shares": [0.1, 3]})


@pytest.mark.parametrize("preset", [["paper"], {"paper": 1}, 7, None])
def test_preset_that_is_no_name_is_refused_in_the_same_words(preset):
    assert "is unknown, use one of seed, paper" in problems_of({"preset": preset})


def test_preset_is_where_values_start_from_and_own_values_win():
    config = ExampleConfig.from_values({"preset": "paper", "epochs": 3})
    assert (config.temperature, config.epochs) == (0.5, 3)


@pytest.mark.parametrize("epochs", [100.0, "100"])
def test_whole_float_and_text_are_taken_for_an_integer(epochs):
    # A pipeline's dict parameter turns every 100 into 100.0, and a flag is text.
    config = ExampleConfig.from_values({"epochs": epochs})
    assert config.epochs == 100
    assert isinstance(config.epochs, int)


def test_fraction_is_refused_for_an_integer():
    assert "epochs: " in problems_of({"epochs": 1.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_number_that_is_none_is_refused(value):
    assert "temperature: input should be a finite number" in problems_of({"temperature": value})


def test_settings_cannot_be_changed_after_they_were_checked():
    with pytest.raises(ValueError, match="frozen"):
        ExampleConfig().epochs = 5


def test_defaults_are_json_without_none():
    assert json.loads(json.dumps(ExampleConfig.defaults("paper"))) == {
        "temperature": 0.5,
        "epochs": 800,
        "optimizer": "adam",
        "shares": [],
    }


def test_values_come_from_json_or_from_a_file_that_holds_it(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"epochs": 3}')
    assert read_values(str(path)) == read_values(' {"epochs": 3}') == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{epochs: 3}", "--config is not valid JSON"),
        ("absent.json", "readable file, got 'absent.json': No such file or directory$"),
        ("", "needs a JSON object or a readable file"),
    ],
)
def test_unreadable_values_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        read_values(text)


def test_file_of_settings_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="it is no UTF-8 text"):
        read_values(str(path))


def test_file_that_holds_a_list_is_refused(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("[1]")
    with pytest.raises(SettingsError, match="must be a JSON object, got list"):
        read_values(str(path))


def test_nearest_name_is_none_where_nothing_is_near():
    assert nearest_name("pretrian", ["prepare", "pretrain"]) == "pretrain"
    assert nearest_name("zzz", ["prepare", "pretrain"]) is None
