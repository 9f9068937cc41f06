import re
import tomllib

from markdown_pages import ROOT


def test_the_notice_names_every_package_that_the_core_requires() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        required = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in required}
    written = {"torch": "pytorch"}
    told = re.findall(r"[\w-]+", (ROOT / "NOTICE").read_text(encoding="utf-8").lower())
    assert {written.get(name, name) for name in names} <= set(told)
