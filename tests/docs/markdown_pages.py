"""Reading the Markdown pages that a user reads: links, headings, code."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("benchmarks/*.md")]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its text and the line of the page on which the text starts."""

    page: Path
    line: int
    text: str


def code_blocks(page: Path, language: str) -> list[CodeBlock]:
    """Return a page's fenced blocks of one language, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        CodeBlock(page, text[: match.start(2)].count("\n") + 1, match[2])
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def commands(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of every command of a page's `sh` blocks that starts with `program`."""
    found = []
    for block in code_blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            start = program.split()
            if words[: len(start)] == start:
                found.append(words[len(start) :])
    return found


def prose(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the names under which a page's headings are linked to, as GitHub derives them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
