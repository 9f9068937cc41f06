import re

from markdown_pages import ROOT

from sightline.pretrain.config import PretrainConfig


def test_the_page_lists_every_setting_that_may_differ_when_a_training_goes_on() -> None:
    page = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"may differ when it goes on: ([^.]+)\.", page)
    assert set(re.findall(r"`(\w+)`", listed)) == PretrainConfig.changes_no_result
