"""Where a training's work is done: one small protocol, two places."""

from __future__ import annotations

from typing import Any, Protocol

from sightline.steps import run_step
from sightline.storage.settings import use_storage_settings
from sightline_cluster.config import ClusterConfig
from sightline_cluster.task import Task


class Backend(Protocol):
    """A place for a training: hand it over, follow it to its end, or call it off."""

    def submit(self) -> None:
        """Hand the task over; a task that was handed over before is found again."""
        ...

    def follow(self) -> dict[str, Any]:
        """Show what it does until its end, and return what the step wrote to `metrics.json`."""
        ...

    def cancel(self) -> bool:
        """Call it off and leave nothing running; say whether there was anything to call off."""
        ...


class LocalBackend:
    """This very process."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def submit(self) -> None:
        """Make the task's way to its store hold here."""
        use_storage_settings(self._task.storage)

    def follow(self) -> dict[str, Any]:
        """Do the work."""
        task = self._task
        return run_step(task.step, task.uris.to_json(), task.config.to_json())

    def cancel(self) -> bool:
        """Do nothing: whoever ends this process ends the work."""
        return False


def make_backend(task: Task, config: ClusterConfig) -> Backend:
    """Return the back end that the settings name.

    Raises:
        UserError: If it cannot take the task.
    """
    if config.backend == "local":
        return LocalBackend(task)
    from sightline_cluster.pytorchjob import PyTorchJobBackend

    return PyTorchJobBackend(task, config)
