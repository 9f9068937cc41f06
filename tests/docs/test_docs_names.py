from __future__ import annotations

import importlib
import re
from collections import Counter

import pytest
from markdown_pages import ROOT

PACKAGES = ("data", "detect", "encoders", "evaluate", "finetune", "pretrain", "scoring", "storage")


def listed() -> dict[str, list[str]]:
    """Return the names of the table of public names by the module they come from."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(sightline[\w.]*)` \| (.+) \|$", text, re.MULTILINE)
    return {module: re.findall(r"`(\w+)`", names) for module, names in rows}


@pytest.mark.parametrize("module", listed())
def test_public_names_can_be_imported(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in listed()[module] if not hasattr(found, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_offers_exactly_the_names_that_are_listed(package: str) -> None:
    found = importlib.import_module(f"sightline.{package}")
    assert sorted(listed()[f"sightline.{package}"]) == sorted(found.__all__)


def test_every_public_name_is_listed_once() -> None:
    counts = Counter(name for names in listed().values() for name in names)
    assert [name for name, count in counts.items() if count > 1] == []
