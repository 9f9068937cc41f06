"""The search for a canary of tests/cluster finds one that is planted; needs no cluster."""

import base64
import sys
import urllib.parse
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

from canary import places_with

SECRET = "k3y/with+Signs-0123456789"


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "AWS_SECRET_ACCESS_KEY="])
@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: f"http://me:{urllib.parse.quote(text, safe='')}@host",
    ],
)
def test_planted_secret_is_found_however_it_is_spelt(before, spell):
    texts = {"log": f"x {spell(before + SECRET + ' after')} y", "other": "nothing"}
    assert places_with(SECRET, texts) == ["log"]
    assert places_with(SECRET, {"file": texts["log"].encode()}) == ["file"]


def test_what_holds_no_secret_is_not_found():
    assert places_with(SECRET, {"log": SECRET[:-1], "other": b""}) == []
