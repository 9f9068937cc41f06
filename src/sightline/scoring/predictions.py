"""Predictions files: every test image's probabilities, so that every number can be recomputed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.data import Sample
from sightline.errors import UserError

_FIRST_COLUMNS = ["name", "group", "label", "predicted"]


@dataclass(frozen=True)
class Predictions:
    """The content of a predictions file; row i of every array belongs to `names[i]`."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: NDArray[np.int64]
    """True class indices, shape (N,)."""
    predicted: NDArray[np.int64]
    """Predicted class indices, shape (N,)."""
    probabilities: NDArray[np.float64]
    """Class probabilities, shape (N, C)."""
    classes: tuple[str, ...]


def write_predictions(
    path: Path, samples: Sequence[Sample], classes: Sequence[str], probabilities: ArrayLike
) -> None:
    """Write one line an image: name, group, label, predicted, and `p_<class>` for each class.

    Args:
        path: The CSV file.
        samples: The labelled images, in the order of `probabilities`.
        classes: Class names in the order of their indices.
        probabilities: Class probabilities, shape (len(samples), len(classes)).
    """
    scores = np.asarray(probabilities)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_FIRST_COLUMNS, *(f"p_{name}" for name in classes)])
        for sample, row in zip(samples, scores, strict=True):
            # 17 digits bring back the very same float64, so ranks and ties survive.
            written = [f"{value:.17g}" for value in row]
            predicted = classes[int(row.argmax())]
            writer.writerow([sample.name, sample.group, sample.label, predicted, *written])


def read_predictions(path: Path) -> Predictions:
    """Read a predictions file back.

    Raises:
        UserError: If it has other columns, a class it does not name, or a number that is none.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    columns = header[len(_FIRST_COLUMNS) :]
    if header[: len(_FIRST_COLUMNS)] != _FIRST_COLUMNS or not all(
        name.startswith("p_") for name in columns
    ):
        raise UserError(
            f"{path} needs the columns {', '.join(_FIRST_COLUMNS)} and p_<class>, "
            f"got {', '.join(header) or 'an empty file'}"
        )
    classes = tuple(name.removeprefix("p_") for name in columns)
    places = {name: index for index, name in enumerate(classes)}
    try:
        labels, predicted = (
            np.array([places[row[column]] for row in rows], dtype=np.int64) for column in (2, 3)
        )
        scores = [[float(value) for value in row[len(_FIRST_COLUMNS) :]] for row in rows]
        probabilities = np.array(scores, dtype=np.float64).reshape(len(rows), len(classes))
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} does not fit its own header: {error}") from None
    names, groups = (tuple(row[column] for row in rows) for column in (0, 1))
    return Predictions(names, groups, labels, predicted, probabilities, classes)
