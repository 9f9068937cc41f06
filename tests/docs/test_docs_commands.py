from __future__ import annotations

import re
from itertools import chain, pairwise

import pytest
from markdown_pages import PAGES, ROOT, commands

from pipelines.__main__ import main as pipelines_main
from pipelines.plan import read_assignments, settings_class
from sightline.cli import parse_step
from sightline.steps import COMMANDS


def written(program: str) -> list[list[str]]:
    return list(chain.from_iterable(commands(page, program) for page in PAGES))


@pytest.mark.parametrize("arguments", written("sightline"), ids=" ".join)
def test_every_sightline_command_of_the_pages_is_accepted(arguments: list[str]) -> None:
    name, *rest = arguments
    step = COMMANDS[name]
    if rest != ["--help"]:
        parse_step(name, step.summary, step.uris_class, step.config_class, rest)


@pytest.mark.parametrize("arguments", written("python -m pipelines"), ids=" ".join)
def test_every_pipelines_command_of_the_pages_has_known_flags(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        pipelines_main([arguments[0], "--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in arguments if word.startswith("--")} <= known


def test_every_setting_that_the_pages_give_a_pipeline_is_accepted() -> None:
    for arguments in written("python -m pipelines"):
        assignments = [value for flag, value in pairwise(arguments) if flag == "--set"]
        settings, problems = read_assignments(assignments)
        assert problems == []
        for step, values in settings.items():
            settings_class(step).from_values(values)


def test_every_make_target_of_the_pages_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {arguments[0] for arguments in written("make")}
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named <= targets
