"""A report on fewer steps than five: one without an address is told of like a skipped one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.__main__ import main
from sightline.report.config import ReportUris


def report(uris: ReportUris, *steps: str) -> tuple[dict[str, object], str, str]:
    """Run `sightline report` with these steps' addresses alone; summary, page and model card."""
    given = uris.model_dump()
    flags = [word for step in steps for word in (f"--{step}-uri", given[f"{step}_uri"])]
    assert main(["report", *flags, "--out-uri", uris.out_uri, "--preset", "demo"]) == 0
    folder = Path(uris.out_uri)
    names = ("summary.json", "report.html", "model_card.md")
    summary, page, card = ((folder / name).read_text(encoding="utf-8") for name in names)
    return json.loads(summary), page, card


def test_report_without_a_detect_step_says_so_and_shows_the_rest(
    write_run: Callable[..., ReportUris],
):
    summary, page, card = report(write_run(), "prepare", "pretrain", "evaluate", "finetune")
    assert summary["skipped_steps"] == {"detect": "step detect was not run"}
    assert summary["detection"] == {}
    assert "finetuned" in summary["protocols"]  # type: ignore[operator]
    assert "Step detect was not run." in page
    assert "Step detect was not run." in card
    assert "<dt>detect</dt>" not in page


def test_report_without_labels_and_a_pretrain_step_shows_detection(
    write_run: Callable[..., ReportUris],
):
    summary, page, card = report(write_run(), "prepare", "detect")
    assert list(summary["skipped_steps"]) == ["pretrain", "evaluate", "finetune"]  # type: ignore[call-overload]
    assert set(summary["detection"]) == {"pretrained", "scratch"}  # type: ignore[call-overload]
    assert "Nothing was classified: step evaluate was not run." in page
    assert "load_encoder" not in card


def test_address_under_which_nothing_has_finished_is_no_step_that_was_not_run(
    write_run: Callable[..., ReportUris], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uris = write_run()
    places = ["--prepare-uri", uris.prepare_uri, "--out-uri", uris.out_uri]
    assert main(["report", *places, "--finetune-uri", str(tmp_path / "finetun")]) == 2
    assert "no finished result under" in capsys.readouterr().err
