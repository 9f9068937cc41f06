"""Histories and temperature curves, from the files of the steps to the points that are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.report.protocols import BY_KEY
from sightline.report.results import Results, StepResult
from sightline.report.wording import listing, percent

Points = list[tuple[float, float]]
Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class PretrainingCurves:
    """What pretraining went through, epoch by epoch."""

    epochs: list[int]
    losses: list[float]
    learning_rates: list[float]
    chance: float
    """Mean loss of the same batches without signal, in nats; as pretrain counted it."""


def read_pretraining(pretrain: StepResult) -> PretrainingCurves | None:
    """Return the pretraining history; None if the step was skipped."""
    rows = pretrain.read_rows("history.csv")
    if not rows:
        return None
    return PretrainingCurves(
        epochs=[int(float(row["epoch"])) for row in rows],
        losses=[float(row["loss"]) for row in rows],
        learning_rates=[float(row["learning_rate"]) for row in rows],
        chance=float(pretrain.metrics["chance_loss_nats"]),
    )


def read_accuracy_curves(results: Results) -> dict[str, dict[str, Points]]:
    """Return for each trained protocol, for `train` and `val`, its accuracy per epoch."""
    curves: dict[str, dict[str, Points]] = {}
    for step in (results.evaluate, results.finetune):
        for row in step.read_rows("history.csv"):
            if row.get("protocol") not in BY_KEY:
                continue
            for split in ("train", "val"):
                value = row.get(f"{split}_accuracy") or ""
                if value:
                    points = curves.setdefault(row["protocol"], {}).setdefault(split, [])
                    points.append((float(row["epoch"]), float(value)))
    return curves


def read_temperature(pretrain: StepResult) -> dict[float, Curve]:
    """Return for each temperature the similarities of negatives and their gradient shares."""
    content = pretrain.read_json("temperature.json") or {"curves": []}
    return {
        float(curve["temperature"]): (curve["similarities"], curve["gradient_shares"])
        for curve in content["curves"]
    }


def temperature_note(pretrain: StepResult) -> str:
    """Return in words how much of the gradient the hardest negatives take, and what was used."""
    curves = read_temperature(pretrain)
    if not curves:
        return ""
    said = [
        f"{percent(max(shares))} at {temperature:g}"
        for temperature, (_, shares) in sorted(curves.items())
    ]
    negatives = len(next(iter(curves.values()))[0])
    used = (pretrain.read_json("temperature.json") or {}).get("configured")
    return (
        f"Of {negatives} negatives spread evenly from opposite to equal, the most similar one "
        f"alone takes {listing(said)}." + (f" This run used {used:g}." if used is not None else "")
    )
