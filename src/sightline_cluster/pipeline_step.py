"""A training step as a pipeline runs it: here, or as a job of the cluster that is followed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.cli import complain
from sightline.pipeline_step import EXIT_FAILURE, FinishedStep, run_pipeline_step
from sightline.steps import run_step
from sightline.storage.settings import StorageConfig
from sightline_cluster.config import ClusterConfig
from sightline_cluster.launch import run_task
from sightline_cluster.task import make_task


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
