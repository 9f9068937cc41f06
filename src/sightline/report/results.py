"""What the steps before left: read once, verified, and in one place."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.report.config import ReportUris
from sightline.storage import fetch_artifacts
from sightline.storage.artifacts import read_json

_NO_FOLDER = Path(os.devnull)  # no file lies below it


@dataclass(frozen=True)
class StepResult:
    """One finished step: where it lies, what it measured, how it was set; uri "": not run."""

    uri: str
    folder: Path
    metrics: dict[str, Any]
    config: dict[str, Any]

    @property
    def skipped(self) -> str:
        """Why the step did no work; empty if it did."""
        return str(self.metrics.get("skipped", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """The step's settings by name."""
        return dict(self.config.get("settings", {}))

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """The scores of each protocol; empty if the step was skipped."""
        return dict(self.metrics.get("protocols", {}))

    def has(self, name: str) -> bool:
        """Say whether the step left a file of this name."""
        return (self.folder / name).is_file()

    def read_json(self, name: str) -> Any:
        """Return a JSON file's content, or None if the step left no such file."""
        return read_json(self.folder / name) if self.has(name) else None

    def read_rows(self, name: str) -> list[dict[str, str]]:
        """Return a CSV file's rows; none if the step left no such file."""
        if not self.has(name):
            return []
        with (self.folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def read_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return an npz file's arrays; none if the step left no such file."""
        if not self.has(name):
            return {}
        with np.load(self.folder / name, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}


@dataclass(frozen=True)
class Results:
    """The five steps that the report reads."""

    prepare: StepResult
    pretrain: StepResult
    evaluate: StepResult
    finetune: StepResult
    detect: StepResult

    def steps(self) -> dict[str, StepResult]:
        """Return the steps by name, in their order."""
        return dict(vars(self))


def read_results(uris: ReportUris) -> Results:
    """Read what every step left; a step without an address counts as skipped.

    Raises:
        NotFoundError: If a step has not finished.
        UserError: If one of its files was altered.
    """
    return Results(
        prepare=_read_step("prepare", uris.prepare_uri),
        pretrain=_read_step("pretrain", uris.pretrain_uri),
        evaluate=_read_step("evaluate", uris.evaluate_uri),
        finetune=_read_step("finetune", uris.finetune_uri),
        detect=_read_step("detect", uris.detect_uri),
    )


def _read_step(name: str, uri: str) -> StepResult:
    if not uri:
        return StepResult(uri, _NO_FOLDER, {"skipped": f"step {name} was not run"}, {})
    folder = fetch_artifacts(uri)
    return StepResult(
        uri, folder, read_json(folder / "metrics.json"), read_json(folder / "config.json")
    )
