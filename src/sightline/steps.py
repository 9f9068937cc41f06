"""The step table: names and import paths as strings, so that reading it imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sightline.config import StepConfig, StepUris
from sightline.machine import started_by_torchrun
from sightline.storage.begun import step_begun
from sightline.storage.retries import retries_told
from sightline.storage.scratch import remove_dead_scratch
from sightline.telemetry import announce, count
from sightline.telemetry.exporter import outcome_pushed


@dataclass(frozen=True)
class Step:
    """One command: where its settings, its addresses and its story live."""

    name: str
    summary: str
    package: str
    prefix: str
    run_module: str = "run"

    @property
    def config_class(self) -> type[StepConfig]:
        """The class that declares the step's settings; importing it never imports torch."""
        return self._load("config", f"{self.prefix}Config")  # type: ignore[no-any-return]

    @property
    def uris_class(self) -> type[StepUris]:
        """The class that declares the step's addresses."""
        return self._load("config", f"{self.prefix}Uris")  # type: ignore[no-any-return]

    @property
    def run(self) -> Callable[[Any, Any], dict[str, Any]]:
        """The step itself: `run(uris, config)` does the work and returns its metrics."""
        return self._load(self.run_module, "run")  # type: ignore[no-any-return]

    def execute(self, uris: StepUris, config: StepConfig) -> dict[str, Any]:
        """Do the work, say what the store made us try again, and return the step's metrics.

        First of all the temporary files of steps that were killed are removed: they may fill the
        disk that this one needs.
        """
        if folders := remove_dead_scratch():
            announce(self.name, f"removed {count(folders, 'scratch folder')} of killed steps")
        with ExitStack() as stack:
            stack.enter_context(retries_told(self.name))
            stack.enter_context(outcome_pushed(self.name))
            # What gc removes, the steps of runs name. Workers say it where their errors are seen.
            if self in PIPELINE_STEPS and not started_by_torchrun():
                stack.enter_context(step_begun(self.name, uris))
            return self.run(uris, config)

    def _load(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"sightline.{self.package}.{module}"), name)


def _step(name: str, summary: str) -> Step:
    return Step(name, summary, name, name.capitalize())


PIPELINE_STEPS: tuple[Step, ...] = (
    _step("prepare", "Check, split by group and pack images, labels and boxes."),
    _step("pretrain", "Learn an encoder from unlabelled images with SimCLR."),
    _step("evaluate", "Measure the frozen encoder with kNN and linear evaluation."),
    _step("finetune", "Train the whole classifier, and the same network from scratch."),
    _step("detect", "Train YOLOv12 on the encoder, and the same detector from scratch."),
    _step("report", "Compare all protocols in one self-contained page."),
    _step("promote", "Move the champion if the challenger is better."),
)
OTHER_COMMANDS: tuple[Step, ...] = (
    Step("demo-data", "Draw head phantoms with lesions, boxes and patients.", "demo", "Demo"),
    Step(
        "rollback", "Move the champion back to its predecessor.", "promote", "Rollback", "rollback"
    ),
    _step("gc", "List what no champion or recent run needs; with --delete, remove it."),
)
COMMANDS: Mapping[str, Step] = {step.name: step for step in (*PIPELINE_STEPS, *OTHER_COMMANDS)}


def run_step(
    name: str, uris: Mapping[str, Any], settings: Mapping[str, Any], **overrides: Any
) -> dict[str, Any]:
    """Run one step from plain values, as a pipeline component hands them over.

    Args:
        name: A name of the step table.
        uris: The step's addresses.
        settings: The step's settings, whole or in part; may name a `preset`.
        overrides: Settings that a pipeline parameter of its own carries, such as `seed`.

    Returns:
        What the step wrote to `metrics.json`.

    Raises:
        SettingsError: If a value is refused, before any work.
    """
    step = COMMANDS[name]
    parsed_uris = step.uris_class.from_values(uris)
    config = step.config_class.from_values({**settings, **overrides})
    return step.execute(parsed_uris, config)
