"""What a person, a dashboard and a file see of a pretraining while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sightline.pretrain.batches import Batch
from sightline.pretrain.config import PretrainConfig
from sightline.pretrain.spread import effective_rank, embedding_std
from sightline.telemetry import announce, count, format_duration, show_step
from sightline.telemetry import metrics as m
from sightline.telemetry.exporter import Exporter
from sightline.training import distributed

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_TIMED_STEPS = 3
_SPREAD_SECONDS = 10.0
"""Least time between two looks at the projections, which take some ms."""
_STEP = "pretrain"


@dataclass(frozen=True)
class EpochRecord:
    """One line of `history.csv`."""

    epoch: int
    loss: float
    learning_rate: float
    images_per_second: float
    data_wait_ratio: float
    """Share of the epoch's time in which the network waited for views, 0..1."""
    embedding_std: float
    """Spread of the last step's projections: 1 in all directions alike, 0 collapsed to a point."""
    effective_rank: float
    """Directions that the last step's projections fill, 1 to projection_out."""
    seconds: float
    knn_accuracy: float | None = None
    """kNN accuracy on labelled val images, 0..1; only after every `knn_epochs` epochs."""


@dataclass(frozen=True)
class StepRecord:
    """How one step went."""

    epoch: int
    step: int
    """Its number in the epoch, counted from 1."""
    global_step: int
    """Its number in the whole training, counted from 1."""
    loss: float
    learning_rate: float
    gradient_norm: float
    projections: Tensor
    """This process's, shape (2n, D); without a gradient."""


class TrainingWatch:
    """Measures a training, and tells how it goes: rank 0 alone, all others only measure."""

    def __init__(self, config: PretrainConfig, steps_per_epoch: int, exporter: Exporter) -> None:
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._exporter = exporter
        self._left_at_start = config.epochs * steps_per_epoch
        self._done_before = 0
        self._timed = min(_TIMED_STEPS, self._left_at_start)
        self._done = 0
        self._start = self._first_done = self._last_done = self._epoch_start = time.monotonic()
        self._epoch_steps = 0
        self._waited = self._last_wait = 0.0
        self._spread = ""
        self._spread_at = -math.inf
        self._writer: SummaryWriter | None = None

    def start_at(self, global_step: int) -> None:
        """Count from a step on that an earlier process has done."""
        self._done_before = global_step
        self._left_at_start -= global_step
        self._timed = min(_TIMED_STEPS, self._left_at_start)

    def epoch_begins(self) -> None:
        """Measure the epoch from here, or what is left of it."""
        self._epoch_start = self._last_done = time.monotonic()
        self._epoch_steps, self._waited = 0, 0.0

    def epoch_ends(self) -> tuple[float, int, float]:
        """Return the epoch's seconds, images, and seconds of waiting for data."""
        images = self._epoch_steps * self._config.global_batch_size
        return time.monotonic() - self._epoch_start, images, self._waited

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and add up how long each was waited for."""
        while True:
            before = time.monotonic()
            batch = next(batches, None)
            self._last_wait = time.monotonic() - before
            self._waited += self._last_wait
            if batch is None:
                return
            yield batch

    def step_done(self, record: StepRecord) -> None:
        """Note one step."""
        self._done += 1
        self._epoch_steps += 1
        now = time.monotonic()
        seconds, self._last_done = now - self._last_done, now
        if self._done == 1:
            self._first_done = now
        if not distributed.is_main():
            return
        if self._done == self._timed:
            # The first step also starts threads and memory pools, so it counts only if alone.
            first = self._start if self._timed == 1 else self._first_done
            per_step = (now - first) / max(1, self._timed - 1)
            whole = now - self._start + per_step * (self._left_at_start - self._timed)
            steps = count(self._left_at_start, "step")
            announce(_STEP, f"{steps}, about {format_duration(whole)} in all")
        self._show(record, max(now - self._epoch_start, 1e-9))
        self._export(record, seconds)
        self._write(
            record.global_step,
            {
                "loss": record.loss,
                "learning_rate": record.learning_rate,
                "gradient_norm": record.gradient_norm,
            },
        )

    def epoch_done(self, record: EpochRecord, global_step: int) -> None:
        """Tell how an epoch went."""
        if not distributed.is_main():
            return
        spent = time.monotonic() - self._start
        epochs = self._config.epochs
        left = spent / self._done * self._steps_per_epoch * (epochs - record.epoch)
        knn = "" if record.knn_accuracy is None else f"kNN {record.knn_accuracy:.1%}  "
        announce(
            _STEP,
            f"epoch {record.epoch}/{epochs}  loss {record.loss:.3f}  "
            f"lr {record.learning_rate:.2e}  {record.images_per_second:.0f} images/s  "
            f"{record.data_wait_ratio:.0%} waiting  std {record.embedding_std:.2f}  "
            f"rank {record.effective_rank:.0f}  {knn}{format_duration(left)} left",
        )
        self._keep_spread(record.embedding_std, record.effective_rank)
        if record.knn_accuracy is not None:
            self._exporter.set(m.EMBEDDING_KNN_ACCURACY, record.knn_accuracy, _STEP)
        self._write(global_step, values_of(record))
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what TensorBoard has not got yet."""
        if self._writer is not None:
            self._writer.close()

    def _show(self, record: StepRecord, spent: float) -> None:
        speed = self._epoch_steps * self._config.global_batch_size / spent
        show_step(
            f"{_STEP}: epoch {record.epoch}",
            record.step,
            self._steps_per_epoch,
            spent / self._epoch_steps * (self._steps_per_epoch - record.step),
            f"loss {record.loss:.3f}, lr {record.learning_rate:.2e}, {speed:.0f} images/s, "
            f"{self._waited / spent:.0%} waiting, {self._spread_of(record.projections)}",
            self._config.log_steps,
        )

    def _spread_of(self, projections: Tensor) -> str:
        # Of rank 0's share alone: no process waits for another because one of them tells.
        if time.monotonic() - self._spread_at >= _SPREAD_SECONDS:
            self._keep_spread(embedding_std(projections), effective_rank(projections))
        return self._spread

    def _keep_spread(self, std: float, rank: float) -> None:
        self._exporter.set(m.EMBEDDING_STD, std, _STEP)
        self._exporter.set(m.EMBEDDING_EFFECTIVE_RANK, rank, _STEP)
        self._spread, self._spread_at = f"std {std:.2f}, rank {rank:.0f}", time.monotonic()

    def _export(self, record: StepRecord, seconds: float) -> None:
        export = self._exporter
        export.set(m.TRAIN_LOSS, record.loss, _STEP)
        export.set(m.TRAIN_LEARNING_RATE, record.learning_rate, _STEP)
        export.set(m.TRAIN_EPOCH, record.epoch, _STEP)
        export.set(m.TRAIN_GRADIENT_NORM, record.gradient_norm, _STEP)
        export.add(m.TRAIN_STEPS, 1, _STEP)
        export.add(m.TRAIN_IMAGES, self._config.global_batch_size, _STEP)
        export.add(m.TRAIN_DATA_WAIT, self._last_wait, _STEP)
        export.observe(m.TRAIN_STEP_SECONDS, seconds, _STEP)

    def _write(self, global_step: int, values: dict[str, float]) -> None:
        if not self._config.tensorboard_dir:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # What a killed process wrote after the checkpoint is computed, and written, again.
            self._writer = SummaryWriter(
                self._config.tensorboard_dir, purge_step=self._done_before + 1, flush_secs=10
            )
        _add(self._writer, global_step, values)


def values_of(record: EpochRecord) -> dict[str, float]:
    """Return what TensorBoard shows of an epoch, at its last step."""
    values = {
        "epoch/loss": record.loss,
        "epoch/images_per_second": record.images_per_second,
        "epoch/data_wait_ratio": record.data_wait_ratio,
        "epoch/embedding_std": record.embedding_std,
        "epoch/effective_rank": record.effective_rank,
    }
    if record.knn_accuracy is not None:
        values["epoch/knn_accuracy"] = record.knn_accuracy
    return values


def write_events(
    history: Sequence[EpochRecord], step_losses: Sequence[float], folder: Path
) -> None:
    """Write TensorBoard's event file of a whole training, however often it was interrupted.

    Args:
        history: All epochs.
        step_losses: Loss of every step; each epoch has equally many.
        folder: Where the file is written; it becomes a folder.
    """
    from tensorboardX import SummaryWriter

    steps_per_epoch = len(step_losses) // len(history)
    with SummaryWriter(str(folder)) as writer:
        for step, loss in enumerate(step_losses, start=1):
            epoch = history[(step - 1) // steps_per_epoch]
            values = {"loss": loss, "learning_rate": epoch.learning_rate}
            if step % steps_per_epoch == 0:
                values |= values_of(epoch)
            _add(writer, step, values)


def _add(writer: SummaryWriter, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        writer.add_scalar(f"{_STEP}/{name}", value, step)
