"""The report step: compare every protocol and say in one page what the run has shown."""

from __future__ import annotations

from typing import Any

from sightline.report import figures
from sightline.report.answer import headline, judge_scale
from sightline.report.comparison import Gap, Row, collect_rows, measure_gaps
from sightline.report.config import ReportConfig, ReportUris
from sightline.report.detection import read_curves
from sightline.report.embedding import FEATURE_SETS, map_features
from sightline.report.facts import read_datasets
from sightline.report.page import Findings, render_model_card, render_page
from sightline.report.results import Results, read_results
from sightline.report.summary import summarize
from sightline.report.training_curves import (
    read_accuracy_curves,
    read_pretraining,
    read_temperature,
)
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import write_json
from sightline.telemetry import announce


def run(uris: ReportUris, config: ReportConfig) -> dict[str, Any]:
    """Compare all protocols in one self-contained page.

    Returns:
        The content of `summary.json`, which `metrics.json` repeats.

    Raises:
        NotFoundError: If a step has not finished.
        UserError: If a step's file was altered, or two steps scored different images.
    """
    require_new(uris.out_uri)
    results = read_results(uris)
    rows = collect_rows(results)
    announce("report", f"comparing {len(rows)} protocols with their intervals")
    gaps = measure_gaps(results, config)
    scale = judge_scale(results, rows, config)
    datasets = read_datasets(results)
    drawn, maps_note = draw_figures(results, rows, gaps, config)
    findings = Findings(results, rows, gaps, datasets, scale, drawn, maps_note)
    answer = headline(results, rows, gaps)
    summary = summarize(results, rows, gaps, datasets, scale, answer)
    with new_artifacts("report", uris, config, uris.out_uri) as folder:
        (folder / "report.html").write_text(render_page(findings, config), encoding="utf-8")
        (folder / "model_card.md").write_text(render_model_card(findings, config), encoding="utf-8")
        write_json(folder / "summary.json", summary)
        write_json(folder / "metrics.json", summary)
    for sentence in answer:
        announce("report", sentence)
    if scale:
        announce("report", f"demo scale, do not trust these numbers: {'; '.join(scale.reasons)}")
    announce("report", f"the page is {uris.out_uri}/report.html")
    return summary


def draw_figures(
    results: Results, rows: list[Row], gaps: list[Gap], config: ReportConfig
) -> tuple[dict[str, Any], str]:
    """Draw every chart that there is data for, and say what the t-SNE maps show."""
    pretraining = read_pretraining(results.pretrain)
    learning = read_accuracy_curves(results)
    temperature = read_temperature(results.pretrain)
    maps = map_features(results, config)
    classes = rows[-1].entry["confusion_matrix"]["classes"] if rows else []
    with_curves = [row for row in rows if row.protocol.key in ("linear", "scratch", "finetuned")]
    drawn = {
        "accuracy": figures.accuracy_intervals(rows, "accuracy", "Accuracy") if rows else "",
        "balanced_accuracy": figures.accuracy_intervals(
            rows, "balanced_accuracy", "Balanced accuracy"
        )
        if rows
        else "",
        "gaps": figures.gap_intervals(gaps) if gaps else "",
        "roc": [figures.roc_curves(row) for row in with_curves],
        "learning": figures.learning_curves(learning) if learning else "",
        "loss": "",
        "rate": "",
        "temperature": figures.temperature_shares(
            temperature, results.pretrain.settings.get("temperature")
        )
        if temperature
        else "",
        "maps": [],
        "precision_recall": [
            figures.precision_recall(curves, name)
            for name, curves in read_curves(results.detect).items()
        ],
    }
    if pretraining:
        drawn["loss"] = figures.pretraining_loss(
            pretraining.epochs, pretraining.losses, pretraining.chance
        )
        drawn["rate"] = figures.learning_rate(pretraining.epochs, pretraining.learning_rates)
    if maps is None:
        return drawn, ""
    titles = dict(FEATURE_SETS)
    drawn["maps"] = [
        figures.feature_map(points, maps.labels, classes, titles[key])
        for key, points in maps.maps.items()
    ]
    shown = len(maps.labels)
    thinned = f"{shown:,} of {maps.images:,}" if shown < maps.images else f"all {shown:,}"
    note = f"t-SNE of {thinned} test images' features h, seed {config.seed}, one colour a class."
    return drawn, note
