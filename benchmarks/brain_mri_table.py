"""Write the table (name, group, split) that runs the brain MRI set through the pipeline.

The set has no patient id. Slices of one patient follow each other in its numbering, so a run
of consecutive slices of one fold and one class stands in for a patient. One run may hold
several patients and one patient several runs, so intervals over these groups are a stand-in:
where a patient is cut into several runs they come out too narrow.

    python benchmarks/brain_mri_table.py FOLDER/brain-mri-cls/folds.csv table.csv
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

SPLIT_OF_FOLD = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"}


def group_slices(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Return (name, group, split) of every slice, in the order of the slice numbers."""
    grouped: list[tuple[str, str, str]] = []
    last: tuple[int, str, str] | None = None
    group = ""
    for row in sorted(rows, key=lambda row: row["name"]):
        number = int(row["name"].rpartition("_")[2])
        fold, class_name = row["author_fold"], row["class"]
        if last != (number - 1, fold, class_name):
            group = f"fold{fold}-{class_name}-from-{number:04d}"
        last = (number, fold, class_name)
        grouped.append((row["name"], group, SPLIT_OF_FOLD[fold]))
    return grouped


def main() -> None:
    """Read the folds, write the table, and say how many groups each split has."""
    folds_path, table_path = map(Path, sys.argv[1:3])
    with folds_path.open(newline="", encoding="utf-8") as file:
        grouped = group_slices(list(csv.DictReader(file)))
    with table_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "group", "split"])
        writer.writerows(grouped)
    groups = Counter(split for group, split in {(group, split) for _, group, split in grouped})
    slices = Counter(split for _, _, split in grouped)
    for split, count in groups.items():
        print(f"{split}: {slices[split]} slices in {count} groups")


if __name__ == "__main__":
    main()
