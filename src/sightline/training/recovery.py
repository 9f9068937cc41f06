"""A training that may be killed at any time: one process claims it, saves it, and goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from sightline.storage import open_storage
from sightline.telemetry import announce
from sightline.telemetry.exporter import Exporter
from sightline.training import distributed
from sightline.training.checkpoint import Checkpoints, LostRunError
from sightline.training.claim import RunClaim
from sightline.training.preemption import AlreadyRunningError, PreemptedError, noticed_sigterm

_CLAIM = "claim.json"


class UnfitStateError(Exception):
    """The state is one that nobody should go on from; the text says why, to be read after "it"."""


class Recovery:
    """What a training loop asks: where to start, when to save, whether to stop."""

    def __init__(
        self,
        step: str,
        checkpoints: Checkpoints,
        claim: RunClaim | None,
        sigterm: Callable[[], bool],
        every_seconds: float,
    ) -> None:
        self.checkpoints = checkpoints
        self._step = step
        self._claim = claim
        self._sigterm = sigterm
        self._every_seconds = every_seconds
        self._saved_at = time.monotonic()
        self.is_over = False
        """Whether the result is published, so that nothing needs to be kept."""

    def take_over(self) -> None:
        """Look what an earlier process has left, and make it ours; in rank 0."""
        try:
            self.checkpoints.take_over()
        except LostRunError as error:
            raise AlreadyRunningError(str(error)) from None

    def load(self) -> dict[str, Any] | None:
        """Return the state of the latest checkpoint, in every process; None: start anew.

        Raises:
            UserError: If it belongs to a run with other settings, or none of them can be read.
        """
        latest = distributed.from_main(self._find_latest)
        if latest is None or distributed.is_main():
            return None if latest is None else self._found
        return self.checkpoints.read(latest).state

    def after_step(
        self, state: Callable[[], Mapping[str, Any]], global_step: int, epoch_ends: bool
    ) -> None:
        """Save if it is time to, and stop if any process was asked to; all stop at the same step.

        While a save is on its way none begins: training waits for no store.

        Args:
            state: Returns what a checkpoint holds, or raises UnfitStateError: then the
                checkpoint before stays the latest.
            global_step: Steps that are done.
            epoch_ends: Whether an epoch ends with this step.

        Raises:
            PreemptedError: After a SIGTERM to any of the processes; the state is saved, if it is
                fit to be.
            AlreadyRunningError: If another process has taken the run over.
            StorageUnavailableError: After a SIGTERM, if the state could not be saved.
        """
        own = torch.tensor([self._sigterm(), bool(self._claim and self._claim.is_lost)])
        asked, lost = distributed.any_of(own).tolist()
        if lost:
            raise AlreadyRunningError("another process has taken this run over, so this one stops")
        if asked:
            saved = distributed.from_main(lambda: self._save(state, global_step, wait=True))
            where = (
                "which is saved: the same command goes on from there"
                if saved
                else "which is not saved: the same command goes on from the checkpoint before"
            )
            raise PreemptedError(
                f"asked to end, so training stopped after step {global_step}, {where}"
            )
        due = epoch_ends or time.monotonic() - self._saved_at >= self._every_seconds
        if distributed.is_main() and due and not self.checkpoints.is_saving:
            self._save(state, global_step, wait=False)

    def are_none(self) -> bool:
        """Wait for the save on its way, and say whether there is none; only rank 0 knows."""
        with suppress(LostRunError):
            self.checkpoints.finish()
        return self.checkpoints.are_none

    def finish(self) -> None:
        """Wait for the save on its way, in every process.

        Raises:
            AlreadyRunningError: If another process has taken the run over.
        """
        distributed.from_main(self._finish)

    def _finish(self) -> None:
        try:
            self.checkpoints.finish()
        except LostRunError as error:
            raise AlreadyRunningError(str(error)) from None

    def _save(
        self, state: Callable[[], Mapping[str, Any]], global_step: int, *, wait: bool
    ) -> bool:
        self._saved_at = time.monotonic()
        try:
            self.checkpoints.save(state(), global_step, wait)
        except UnfitStateError as error:
            announce(self._step, f"step {global_step} is not saved: it {error}")
            return False
        except LostRunError as error:
            raise AlreadyRunningError(str(error)) from None
        return True

    def _find_latest(self) -> str | None:
        latest = self.checkpoints.latest()
        if latest is None:
            return None
        self._found = latest.state
        announce(self._step, f"going on from checkpoint {latest.name}")
        return latest.name


@contextmanager
def recovery_of(
    uri: str,
    step: str,
    identity: Mapping[str, Any],
    every_seconds: float,
    exporter: Exporter | None = None,
) -> Iterator[Recovery]:
    """Claim a run for as long as the block runs; rank 0 does, for all processes.

    Args:
        uri: Where the run's checkpoints lie, or will.
        step: The step, as lines to the user name it.
        identity: Settings and data that make the run this run.
        every_seconds: Longest training time that a kill may cost, apart from the save itself.
        exporter: What is told of saves, failures and fall-backs.

    Raises:
        AlreadyRunningError: If another process trains it.
        UserError: If another process trains one with other settings or data there.
    """
    storage = open_storage(uri)
    run = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    claim = RunClaim(storage, _CLAIM, step, run=run) if distributed.is_main() else None
    distributed.from_main(lambda: claim.take() if claim else None)
    exporter = exporter or Exporter()
    checkpoints = Checkpoints(storage, step, claim.owner if claim else "", identity, exporter)
    try:
        with noticed_sigterm() as sigterm:
            recovery = Recovery(step, checkpoints, claim, sigterm, every_seconds)
            distributed.from_main(recovery.take_over)
            try:
                yield recovery
            finally:
                # Who takes the run over next must not meet a save of ours that is on its way.
                with suppress(LostRunError):
                    checkpoints.finish()
    except RuntimeError as error:  # as of another process that is lost
        if claim and checkpoints.newest:
            error.add_note(f"with checkpoint {checkpoints.newest} saved")
        raise
    finally:
        if claim and claim.give_back() and (recovery.is_over or checkpoints.are_none):
            storage.clear()
