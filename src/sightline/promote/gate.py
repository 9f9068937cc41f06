"""The gate: one metric, an absolute floor, and a margin over the champion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """What a challenger must reach."""

    metric: str
    floor: float
    margin: float


@dataclass(frozen=True)
class Judgement:
    """Whether the challenger becomes champion, and the reason in one sentence."""

    promoted: bool
    reason: str


# 0.85 - 0.80 is a hair below 0.05 in binary; nobody means that hair.
_DIGITS = 9


def judge(gate: Gate, challenger: float | None, champion: float | None) -> Judgement:
    """Compare two values of the gate's metric on the same test split.

    Args:
        gate: What must be reached.
        challenger: The challenger's value, 0..1; None if it does not exist on this split.
        champion: The champion's value there; None if there is no champion.
    """
    if challenger is None:
        return Judgement(False, f"{gate.metric} does not exist on this test split")
    said = f"{gate.metric} {challenger:.4f}"
    if round(challenger - gate.floor, _DIGITS) < 0:
        return Judgement(False, f"{said} is below the floor of {gate.floor:g}")
    if champion is None:
        return Judgement(
            True, f"{said} reaches the floor of {gate.floor:g}, and there is no champion yet"
        )
    difference = round(challenger - champion, _DIGITS)
    compared = f"{said} against the champion's {champion:.4f} on the same test split"
    if difference <= 0:
        verdict = "equals it, and a tie promotes nobody" if difference == 0 else "is worse"
        return Judgement(False, f"{compared} {verdict}")
    if difference < gate.margin:
        return Judgement(
            False, f"{compared} is better by {difference:.4f}, less than the margin {gate.margin:g}"
        )
    return Judgement(True, f"{compared} is better by {difference:.4f}, margin {gate.margin:g}")
