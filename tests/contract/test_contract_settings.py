import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings_page import render_settings_page
from sightline.config import StepConfig, StepUris
from sightline.errors import SettingsError
from sightline.steps import COMMANDS, PIPELINE_STEPS

ROOT = Path(__file__).parents[2]
STEPS = list(COMMANDS.values())


def names_read_in(package):
    folder = Path(importlib.util.find_spec(f"sightline.{package}").origin).parent
    read = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    return read


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_entry_of_the_step_table_resolves(step):
    assert issubclass(step.config_class, StepConfig)
    assert issubclass(step.uris_class, StepUris)
    assert callable(step.run)


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_step_of_a_run_says_what_it_was_given_while_it_works(step, tmp_path, monkeypatch):
    uris = step.uris_class.from_values(
        {name: str(tmp_path / name) for name in step.uris_class.model_fields}
    )
    seen = []

    def look(uris, config):
        seen.extend(json.loads(path.read_text()) for path in Path(uris.out_uri).iterdir())
        return {}

    monkeypatch.setattr(type(step), "run", property(lambda _: look))
    assert COMMANDS[step.name].execute(uris, step.config_class.defaults()) == {}
    assert seen == [{"step": step.name, "uris": uris.to_json()}]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_setting_and_address_is_read_in_its_step(step):
    read = names_read_in(step.package)
    assert set(step.config_class.model_fields) - read == set()
    assert set(step.uris_class.model_fields) - read == set()


def test_every_seed_is_one_that_every_generator_takes():
    largest = 2**32 - 1  # of numpy.random.seed and scikit-learn's random_state
    seeds = [
        (step.config_class, name)
        for step in STEPS
        for name in step.config_class.model_fields
        if name.endswith("seed")
    ]
    assert len(seeds) == 8
    for cls, name in seeds:
        cls.from_values({name: largest})
        with pytest.raises(SettingsError, match=rf"{name}: .* less than or equal to {largest}, "):
            cls.from_values({name: largest + 1})


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_setting_and_address_is_described(step):
    for cls in (step.config_class, step.uris_class):
        silent = [name for name, field in cls.model_fields.items() if not field.description]
        assert silent == []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_addresses_are_texts_whose_name_ends_in_uri(step):
    for name, field in step.uris_class.model_fields.items():
        assert name.endswith("_uri")
        assert field.annotation is str
        assert field.is_required() or field.default == ""


def test_reading_every_setting_needs_no_torch():
    program = (
        "import sys; from sightline.steps import COMMANDS; "
        "[(step.config_class.defaults(), step.uris_class) for step in COMMANDS.values()]; "
        "print(sorted({'torch', 'numpy', 'sklearn', 'matplotlib', 'kfp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_settings_page_is_up_to_date():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == render_settings_page(), "the settings changed: run `make docs`"
