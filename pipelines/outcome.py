"""The last lines of a run: what was compared, the numbers, the decision, where the report is."""

from collections.abc import Mapping
from typing import Any

from sightline.storage import fetch_artifacts, join_uri
from sightline.storage.artifacts import read_json


def describe_outcome(run_uri: str) -> str:
    """Return five lines about a finished run, read from its report and its decision."""
    summary = _read(join_uri(run_uri, "report"), "summary.json")
    decision = _read(join_uri(run_uri, "promote"), "metrics.json")
    classifiers, detectors = summary["protocols"], summary["detection"]
    skipped = summary["skipped_steps"]
    scale = " (demo scale: not numbers to trust)" if summary["demo_scale"]["is_demo_scale"] else ""
    return "\n".join(
        [
            f"  compared  {_compared(classifiers, detectors)}",
            f"  accuracy  {_numbers(classifiers, 'accuracy', percent=True, skipped=skipped)}",
            f"  mAP50-95  {_numbers(detectors, 'map50_95', percent=False, skipped=skipped)}",
            f"  promote   {_decision(decision)}",
            f"  report    {join_uri(run_uri, 'report', 'report.html')}{scale}",
        ]
    )


def _read(step_uri: str, name: str) -> Any:
    return read_json(fetch_artifacts(step_uri, [name]) / name)


def _compared(classifiers: Mapping[str, Any], detectors: Mapping[str, Any]) -> str:
    parts = []
    if classifiers:
        entry = next(iter(classifiers.values()))
        parts.append(f"{len(classifiers)} classifiers on {entry['test_images']} test images")
    if detectors:
        entry = next(iter(detectors.values()))
        parts.append(f"{len(detectors)} detectors on {entry['test_images']} test images")
    return " and ".join(parts) or "nothing: neither labels nor boxes were given"


def _numbers(
    protocols: Mapping[str, Any], metric: str, *, percent: bool, skipped: Mapping[str, str]
) -> str:
    if not protocols:
        step = "finetune" if percent else "detect"
        return f"none: {skipped.get(step, 'not measured')}"
    return ", ".join(
        f"{name.replace('_', ' ')} {_show(entry[metric]['value'], percent)}"
        for name, entry in protocols.items()
    )


def _show(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if percent else f"{value:.3f}"


def _decision(decision: Mapping[str, Any]) -> str:
    return str(decision.get("skipped") or decision["reason"])
