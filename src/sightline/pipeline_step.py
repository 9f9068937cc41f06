"""A step as a pipeline runs it: plain values in, one clear line on error, pictures for the UI out.

KFP's `Metrics`, `ClassificationMetrics`, `HTML` and `Markdown` objects arrive as arguments, so
that nothing here imports KFP.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sightline.cli import complain
from sightline.errors import SettingsError, UserError
from sightline.steps import COMMANDS, run_step
from sightline.storage import StorageUnavailableError, fetch_artifacts, join_uri
from sightline.storage.finished import read_finished
from sightline.storage.settings import StorageConfig, use_storage_settings
from sightline.telemetry import announce
from sightline.training.preemption import (
    EXIT_PREEMPTED,
    AlreadyRunningError,
    PreemptedError,
    WorkerError,
)

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1

GOES_ON = "SIGHTLINE_RUN_GOES_ON"
"""Variable that is set where a run may go on after steps that finished in it before; elsewhere, as
in a run on a schedule, a finished step of the same name is another run's, and refused."""


class Metrics(Protocol):
    """What is asked of `kfp.dsl.Metrics`."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show one number on the run's page and on the page that compares runs."""
        ...


class ClassificationMetrics(Protocol):
    """What is asked of `kfp.dsl.ClassificationMetrics`."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Show a confusion matrix; one row a true class."""
        ...

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Show a ROC curve."""
        ...


class Page(Protocol):
    """What is asked of `kfp.dsl.HTML` and `kfp.dsl.Markdown`: a file to write."""

    path: str


@dataclass(frozen=True)
class FinishedStep:
    """A step's folder and what it wrote to `metrics.json`."""

    uri: str
    metrics: Mapping[str, Any]

    def show(
        self,
        metrics: Metrics | None = None,
        classification: Mapping[str, ClassificationMetrics] | None = None,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        """Fill the artifacts that KFP's UI draws; a skipped step leaves them empty.

        Args:
            metrics: Receives every protocol's numbers.
            classification: Protocol names, and what receives their confusion matrix and ROC.
            pages: File names in the step's folder, and the pages that receive them.

        Raises:
            SystemExit: If a page cannot be read back; one line says why.
        """
        if metrics is not None:
            for name, value in _numbers(self.metrics):
                metrics.log_metric(name, value)
        for protocol, target in (classification or {}).items():
            found = self.metrics.get("protocols", {}).get(protocol)
            if found:
                _show_classification(found, target)
        for name, page in (pages or {}).items():
            if "skipped" not in self.metrics:
                with _told_in_one_line(self.uri.rpartition("/")[2]):
                    shutil.copyfile(fetch_artifacts(self.uri, [name]) / name, page.path)


def run_folder(out: str, run_id: str, job_id: str) -> str:
    """Return the folder of a run: named by the user, else by KFP's job.

    Raises:
        SystemExit: If the name cannot be a folder's.
    """
    name = run_id or job_id
    if not out or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        problem = "out is required" if not out else f"run_id {name!r} needs letters, digits, . _ -"
        complain("pipeline", UserError(problem))
        raise SystemExit(EXIT_USER_ERROR)
    return join_uri(out, "runs", name)


def run_pipeline_step(
    name: str,
    run: str,
    uris: Mapping[str, str],
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    storage: Mapping[str, Any],
    work: Callable[..., dict[str, Any]] = run_step,
) -> FinishedStep:
    """Run one step of a pipeline; its results go to its own folder below the run's.

    Args:
        name: A name of the step table.
        run: Address of the run's folder.
        uris: Where the step reads, and the places outside the run it writes to.
        settings: The step's dict parameter, whole or in part.
        own: Settings that have a pipeline parameter of their own, such as `seed`.
        storage: How S3 is reached, whole or in part. What equals its default leaves the
            container's own SIGHTLINE_S3_… variables as they are.
        work: Does the step's work; called as `run_step` is.

    Raises:
        SystemExit: With code 2, if the user can mend it, with 1, if a store gives no answer; one
            line says what was wrong.
    """
    out_uri = join_uri(run, name)
    with _told_in_one_line(name):
        use_storage_settings(StorageConfig.from_values(storage).model_dump(exclude_defaults=True))
        twice = sorted(set(settings) & set(own))
        if twice:
            raise SettingsError(
                f"settings_{name} repeats {', '.join(twice)}, which the pipeline carries "
                "as a parameter of its own: give it there"
            )
        addresses = {**uris, "out_uri": out_uri}
        metrics = _finished_before(name, addresses, {**settings, **own})
        if metrics is None:
            metrics = work(name, addresses, settings, **own)
        return FinishedStep(out_uri, metrics)


def _finished_before(
    name: str, uris: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    if GOES_ON not in os.environ:
        return None
    step = COMMANDS[name]
    parsed_uris, config = step.uris_class.from_values(uris), step.config_class.from_values(settings)
    metrics = read_finished(parsed_uris, config, uris["out_uri"])
    if metrics is not None:
        announce(name, f"finished before in {uris['out_uri']}, and stays as it is")
    return metrics


@contextlib.contextmanager
def _told_in_one_line(step: str) -> Iterator[None]:
    try:
        yield
    except (UserError, StorageUnavailableError, WorkerError) as error:
        sys.stdout.flush()
        complain(step, error)
        code = EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILURE
        raise SystemExit(code) from None
    except PreemptedError as error:
        complain(step, error)
        raise SystemExit(EXIT_PREEMPTED) from None
    except AlreadyRunningError as error:
        # Alone, a command ends well here; a step of a pipeline has nothing to hand on.
        complain(step, error)
        raise SystemExit(EXIT_FAILURE) from None


def dataset_uris(prepared: FinishedStep) -> tuple[str, str, str]:
    """Return the data sets that `prepare` made of images, labels and boxes; "" where none."""
    datasets = prepared.metrics.get("datasets", {})
    return (
        datasets.get("images", ""),
        datasets.get("labels", ""),
        datasets.get("boxes", ""),
    )


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield a step's scalars, such as `finetuned accuracy`; lists, tables and nulls stay out."""
    for name, value in metrics.items():
        if name in _TABLES:
            continue
        label = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if "value" in value:
                value = value["value"]
            else:
                inner = "" if name == "protocols" else f"{label} "
                yield from _numbers(value, prefix if name == "protocols" else inner)
                continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield label, float(value)


_TABLES = ("per_class", "confusion_matrix", "roc")


def _show_classification(scores: Mapping[str, Any], target: ClassificationMetrics) -> None:
    matrix = scores["confusion_matrix"]
    target.log_confusion_matrix(matrix["classes"], matrix["counts"])
    # The UI draws one curve: that of the class which is hardest to tell from the rest.
    areas = {name: facts["auc"] for name, facts in scores["per_class"].items()}
    areas = {name: area for name, area in areas.items() if area is not None}
    if areas:
        curve = scores["roc"][min(areas, key=areas.__getitem__)]
        target.log_roc_curve(
            curve["false_positive_rate"],
            curve["true_positive_rate"],
            [1.0 if value is None else value for value in curve["threshold"]],
        )
