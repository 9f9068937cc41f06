"""`summary.json`: every number of the page for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightline.report.answer import DemoScale
from sightline.report.comparison import Gap, Row
from sightline.report.facts import DatasetFacts, step_settings, versions
from sightline.report.results import Results


def summarize(
    results: Results,
    rows: Sequence[Row],
    gaps: Sequence[Gap],
    datasets: Sequence[DatasetFacts],
    scale: DemoScale,
    answer: Sequence[str],
) -> dict[str, Any]:
    """Return the numbers of the report as JSON types.

    ROC points stay in the steps' own `metrics.json`; everything else is here.
    """
    return {
        "headline": list(answer),
        "demo_scale": {"is_demo_scale": bool(scale), "reasons": list(scale.reasons)},
        "protocols": {row.protocol.key: _without_curves(row.entry) for row in rows},
        "gaps": {
            gap.key: {
                "accuracy": gap.accuracy,
                "balanced_accuracy": gap.balanced_accuracy,
                "verdict": gap.verdict,
                "sentence": gap.sentence,
            }
            for gap in gaps
        },
        "detection": {
            name: _without_curves(entry) for name, entry in results.detect.protocols.items()
        },
        "skipped_steps": {
            name: step.skipped for name, step in results.steps().items() if step.skipped
        },
        "datasets": {
            facts.key: {
                "uri": facts.uri,
                "digest": facts.digest,
                "images": facts.images,
                "groups": facts.groups,
                "classes": list(facts.classes),
                "splits": facts.splits,
            }
            for facts in datasets
        },
        "settings": step_settings(results),
        "versions": versions(results),
        "steps": {name: step.uri for name, step in results.steps().items()},
    }


def _without_curves(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "roc"}
