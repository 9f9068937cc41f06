"""A training step as a pipeline runs it: here, or as a job of the cluster that is followed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.cli import complain
from sightline.errors import UserError
from sightline.pipeline_step import (
    EXIT_FAILURE,
    EXIT_USER_ERROR,
    FinishedStep,
    run_folder,
    run_pipeline_step,
)
from sightline.steps import run_step
from sightline.storage.settings import StorageConfig
from sightline.telemetry import announce
from sightline_cluster.config import ClusterConfig
from sightline_cluster.launch import run_task
from sightline_cluster.render import RUN_LABEL
from sightline_cluster.task import label_value, make_task, one_spelling


def run_training_step(
    name: str,
    run: str,
    uris: Mapping[str, str],
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    storage: Mapping[str, Any],
    cluster: Mapping[str, Any],
) -> FinishedStep:
    """Run a step of a pipeline where `cluster.backend` says; otherwise as `run_pipeline_step` does.

    Raises:
        SystemExit: As `run_pipeline_step`; with code 1 if a job failed otherwise.
    """

    def work(
        step: str, addresses: Mapping[str, Any], values: Mapping[str, Any], **overrides: Any
    ) -> dict[str, Any]:
        config = ClusterConfig.from_values(cluster)
        if config.backend == "local":
            return run_step(step, addresses, values, **overrides)
        from sightline_cluster.pytorchjob import JobFailedError

        reached = StorageConfig.from_environment().model_dump(exclude_defaults=True)
        task = make_task(step, addresses, {**values, **overrides}, reached)
        try:
            return run_task(task, config)
        except JobFailedError as error:
            complain(step, error)
            raise SystemExit(EXIT_FAILURE) from None

    return run_pipeline_step(name, run, uris, settings, own, storage, work)


def reap_run(out: str, run_id: str, job_id: str, cluster: Mapping[str, Any]) -> None:
    """Delete the jobs that a run of a pipeline left running, and wait until they are gone.

    For the end of every run. What became of the run is asked of the cluster alone: after
    Terminate, Kubeflow Pipelines calls its state RUNNING. Finished jobs stay for inspection, and
    so do all where the settings say that a job outlives its launcher.

    Args:
        out: Where everything of the pipeline goes.
        run_id: Name of the run's folder; empty: `job_id`.
        job_id: KFP's own id of the run.
        cluster: Settings of its jobs, whole or in part.

    Raises:
        SystemExit: With code 2, if the user can mend what hinders it, else with 1; one line says
            why.
    """
    run = one_spelling(run_folder(out, run_id, job_id))
    try:
        config = ClusterConfig.from_values(cluster)
        if config.backend == "local" or not config.cancel_on_sigterm:
            return
        from sightline_cluster.api import ApiAwayError, connect
        from sightline_cluster.pytorchjob import JobFailedError, reap

        selector = f"{RUN_LABEL}={label_value(run.rpartition('/')[2])}"
        try:
            names = reap(connect(config.namespace), selector, run, only_running=True)
        except (ApiAwayError, JobFailedError) as error:
            complain("reap", error)
            raise SystemExit(EXIT_FAILURE) from None
    except UserError as error:
        complain("reap", error)
        raise SystemExit(EXIT_USER_ERROR) from None
    announce("reap", f"deleted {', '.join(names)}" if names else "nothing was left running")
