"""How a training went: the history of its epochs, and the one that was chosen."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HISTORY_FILE = "history.csv"


@dataclass(frozen=True)
class ClassifierEpoch:
    """One epoch of a classifier's training; a line of `history.csv`."""

    protocol: str
    epoch: int
    """Counts from 1."""
    train_loss: float
    """Cross entropy in nats, the mean over the epoch while the weights moved."""
    train_accuracy: float
    val_loss: float
    """Cross entropy in nats, after the epoch."""
    val_accuracy: float
    learning_rate: float
    """The head's, throughout the epoch."""

    @property
    def rank(self) -> tuple[float, float]:
        """What the kept epoch has most of: validation accuracy, then a low validation loss."""
        return self.val_accuracy, -self.val_loss


@dataclass(frozen=True)
class ClassifierTraining:
    """How the training of a classifier went."""

    best_epoch: int
    """The epoch, from 1, whose weights were kept."""
    val_accuracy: float
    """Its accuracy on the validation split."""
    history: list[ClassifierEpoch]


def chosen_epochs(trainings: Mapping[str, ClassifierTraining]) -> dict[str, dict[str, Any]]:
    """Return the entry `chosen` of `metrics.json`: each protocol's epoch and how it validated."""
    return {
        protocol: {"epoch": training.best_epoch, "val_accuracy": training.val_accuracy}
        for protocol, training in trainings.items()
    }


def write_classifier_history(folder: Path, trainings: Mapping[str, ClassifierTraining]) -> None:
    """Write the epochs of every training, one after the other, to `history.csv`."""
    epochs = [asdict(epoch) for training in trainings.values() for epoch in training.history]
    write_rows(folder / HISTORY_FILE, epochs)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal columns as CSV, the columns in the order of the first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
