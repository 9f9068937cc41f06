"""One training from submission to its true end, in whichever place the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from sightline.errors import UserError
from sightline_cluster.backends import make_backend
from sightline_cluster.config import ClusterConfig
from sightline_cluster.task import Task

PIPELINE_PROCESS = "SIGHTLINE_PIPELINE_PROCESS"
"""Variable with the id of the process that runs a pipeline on this machine: its steps end with it,
and their jobs."""


def run_task(task: Task, config: ClusterConfig) -> dict[str, Any]:
    """Hand a task over, follow it, and return what the step wrote to `metrics.json`.

    Raises:
        UserError: If the user can mend what went wrong.
        JobFailedError: If the job ended otherwise without a result.
        SystemExit: If this process was asked to end; the job is deleted by then.
    """
    backend = make_backend(task, config)
    with contextlib.ExitStack() as stack:
        if config.backend == "pytorchjob":
            from sightline_cluster.pytorchjob import PyTorchJobBackend, cancelled_with_us

            assert isinstance(backend, PyTorchJobBackend)
            stack.enter_context(cancelled_with_us(backend, config))
        backend.submit()
        return backend.follow()


def check_tasks(tasks: Iterable[Task], config: ClusterConfig) -> None:
    """Ask the cluster whether it would take these tasks' jobs; nothing is made there.

    Raises:
        UserError: If it would not, in the words of `run_task`, or gives no answer.
    """
    from sightline_cluster.api import ApiAwayError, WebhookAwayError, connect
    from sightline_cluster.pytorchjob import PyTorchJobBackend

    api = connect(config.namespace)
    try:
        for task in tasks:
            PyTorchJobBackend(task, config, api).check()
    except WebhookAwayError as error:
        raise UserError(str(error)) from None
    except ApiAwayError as error:
        raise UserError(f"{error}: start that cluster, or set KUBECONFIG to another's") from None
