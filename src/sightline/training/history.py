"""`history.csv`: one line an epoch, so that any tool can draw the curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

HISTORY_FILE = "history.csv"


def write_history(folder: Path, rows: Sequence[Mapping[str, str | int | float]]) -> None:
    """Write rows of equal columns to `history.csv`, the columns in the order of the first row."""
    with (folder / HISTORY_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
