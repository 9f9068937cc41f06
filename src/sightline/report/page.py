"""From results to the three documents; the templates hold words and layout, no logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sightline.report import wording
from sightline.report.answer import DemoScale, groups_note, headline, limitations
from sightline.report.comparison import Gap, Row, chance_of, label_fraction_rows
from sightline.report.config import ReportConfig
from sightline.report.detection import (
    TITLES,
    detection_gap_sentence,
    detector_class_rows,
    read_pictures,
)
from sightline.report.facts import (
    DatasetFacts,
    asked,
    data_notes,
    question,
    readable_settings,
    versions,
)
from sightline.report.figures import class_sign
from sightline.report.palette import PROTOCOL_COLOURS
from sightline.report.results import Results
from sightline.report.training_curves import temperature_note

WEIGHTED_METRICS = (
    "accuracy",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
)
"""What weights every class by its images, as the accuracy does."""
MACRO_METRICS = ("balanced_accuracy", "precision_macro", "f1_macro")
"""What counts every class alike; macro recall is the balanced accuracy."""
_DETAILED = ("linear", "scratch", "finetuned")


@dataclass(frozen=True)
class Findings:
    """All that the documents are made of."""

    results: Results
    rows: Sequence[Row]
    gaps: Sequence[Gap]
    datasets: Sequence[DatasetFacts]
    scale: DemoScale
    figures: Mapping[str, Any]
    maps_note: str


def render_page(findings: Findings, config: ReportConfig) -> str:
    """Return `report.html`."""
    template = _environment(autoescape=True).get_template("page.html")
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    page = template.render(css=_trusted(css), **_context(findings, config))
    # A number and its percent sign stay on one line.
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def render_model_card(findings: Findings, config: ReportConfig) -> str:
    """Return `model_card.md`."""
    # Markdown has no autoescape; the filters `cell` and `line` do what its tables need.
    template = _environment(autoescape=False).get_template("model_card.md")
    return template.render(**_context(findings, config))


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,  # noqa: S701 (off for Markdown only)
        undefined=StrictUndefined,
        # In Markdown the end of a line is the end of a table row.
        trim_blocks=autoescape,
    )
    environment.globals.update(
        percent=wording.percent,
        percent_interval=wording.percent_interval,
        points=wording.points,
        points_interval=wording.points_interval,
        decimal=wording.decimal,
        decimal_interval=wording.decimal_interval,
        count=wording.count,
        minus=wording.MINUS,
        cell=wording.markdown_cell,
        line=wording.markdown_line,
    )
    return environment


def _trusted(css: str) -> Markup:
    return Markup(css)  # noqa: S704 (our own file)


def _context(findings: Findings, config: ReportConfig) -> dict[str, Any]:
    results, rows = findings.results, findings.rows
    detectors: list[dict[str, Any]] = [
        {"title": TITLES[key], "colour": PROTOCOL_COLOURS[key], "entry": entry}
        for key, entry in results.detect.protocols.items()
    ]
    return {
        "title": config.title,
        "subtitle": _subtitle(findings),
        "sections": _sections(findings),
        "scale": findings.scale,
        "tiles": _tiles(findings),
        "answer": headline(results, rows, findings.gaps),
        "rows": rows,
        "weighted_metrics": WEIGHTED_METRICS,
        "macro_metrics": MACRO_METRICS,
        "best": {metric: _best(rows, metric) for metric in (*WEIGHTED_METRICS, *MACRO_METRICS)},
        "test_set": _test_set(rows[-1].entry) if rows else "",
        "chance": chance_of(rows[-1]) if rows else "",
        "groups_note": groups_note(results, config),
        "no_classification": _reason(results.evaluate.skipped, "no classifier was trained"),
        "gaps": findings.gaps,
        "label_fractions": label_fraction_rows(results),
        "details": [_detail(row) for row in rows if row.protocol.key in _DETAILED],
        "class_legend": _class_legend(rows),
        "figures": findings.figures,
        "no_pretraining": _reason(results.pretrain.skipped, "pretraining left no history"),
        "temperature_note": temperature_note(results.pretrain),
        "maps_note": findings.maps_note,
        "detectors": detectors,
        "detection_test_set": _test_set(detectors[-1]["entry"]) if detectors else "",
        "detection_gap": detection_gap_sentence(results.detect),
        "detector_classes": detector_class_rows(results.detect),
        "pictures": read_pictures(results.detect),
        "pictures_note": "Solid boxes are the annotation, dashed ones what the detector found, "
        "with its confidence. A picture without dashed boxes is one where it found nothing.",
        "no_detection": _reason(results.detect.skipped, "no detector was trained"),
        "datasets": findings.datasets,
        "data_notes": data_notes(results),
        "limits": limitations(results, rows, findings.scale, config),
        "question": question(results, findings.datasets),
        "asked": asked(results, config),
        "settings": readable_settings(results),
        "step_uris": {name: step.uri for name, step in results.steps().items() if step.uri},
        "versions": versions(results),
        "models": _models(results),
        "purpose": _purpose(findings),
        "has_classifier": results.finetune.has("classifier.pth"),
        "has_detector": results.detect.has("detector.pt"),
        "yolo_encoder_note": _yolo_encoder_note(results),
    }


def _subtitle(findings: Findings) -> str:
    sizes = [
        f"{wording.count(facts.images, 'image')} ({facts.key}, version {facts.digest[:8]})"
        for facts in findings.datasets
    ]
    seed = findings.results.pretrain.settings.get("seed")
    parts = [*sizes, *([f"seed {seed}"] if seed is not None else [])]
    return " · ".join(parts)


def _sections(findings: Findings) -> list[tuple[str, str]]:
    shown = {
        "answer": "Answer",
        "asked": "What was asked",
        "protocols": "Protocols",
        "gaps": "Gaps" if findings.gaps else "",
        "classes": "Classes" if findings.rows else "",
        "learning": "Learning" if findings.figures["learning"] else "",
        "pretraining": "Pretraining",
        "features": "Features" if findings.figures["maps"] else "",
        "detection": "Detection",
        "data": "Data",
        "limits": "Limits",
    }
    return [(anchor, name) for anchor, name in shown.items() if name]


def _tiles(findings: Findings) -> list[dict[str, str]]:
    by_key = {row.protocol.key: row for row in findings.rows}
    names = ("finetuned", "scratch", "linear", "pixel_nearest_neighbour")
    tiles = [
        {
            "name": by_key[key].protocol.title,
            "metric": "accuracy",
            "colour": by_key[key].protocol.colour,
            "value": wording.percent(by_key[key].accuracy["value"]),
            "interval": _or_no_interval(wording.percent_interval(by_key[key].accuracy)),
        }
        for key in names
        if key in by_key
    ]
    for key, entry in findings.results.detect.protocols.items():
        number = entry["map50_95"]
        tiles.append(
            {
                "name": TITLES[key],
                "metric": "mAP50-95",
                "colour": PROTOCOL_COLOURS[key],
                "value": wording.decimal(number["value"]),
                "interval": _or_no_interval(wording.decimal_interval(number)),
            }
        )
    return tiles


def _or_no_interval(text: str) -> str:
    return text or "no interval"


def _best(rows: Sequence[Row], metric: str) -> set[str]:
    values = {row.protocol.key: row.entry[metric]["value"] for row in rows}
    known = [value for value in values.values() if value is not None]
    return {key for key, value in values.items() if known and value == max(known)}


def _test_set(entry: Mapping[str, Any]) -> str:
    images = wording.count(entry["test_images"], "test image")
    return f"{images} of {wording.count(entry['test_groups'], 'group')}"


def _reason(skipped: str, otherwise: str) -> str:
    text = skipped or otherwise
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _detail(row: Row) -> dict[str, Any]:
    matrix = row.entry["confusion_matrix"]
    lines = []
    for name, counts in zip(matrix["classes"], matrix["counts"], strict=True):
        total = sum(counts)
        cells = [_cell(number, number / total if total else 0.0) for number in counts]
        lines.append({"name": name, "cells": cells})
    return {"row": row, "matrix": {"classes": matrix["classes"], "lines": lines}}


def _cell(number: int, share: float) -> dict[str, str]:
    # White to a deep blue; the text turns white where the ground gets dark.
    start, end = (255, 255, 255), (0, 92, 148)
    mixed = [round(a + (b - a) * share) for a, b in zip(start, end, strict=True)]
    return {
        "count": f"{number:,}",
        "share": f"{100 * share:.0f} %",
        "background": "#" + "".join(f"{value:02x}" for value in mixed),
        "colour": "#ffffff" if share > 0.5 else "#1d2733",
    }


def _class_legend(rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = rows[-1].entry["confusion_matrix"]["classes"] if rows else []
    return [{"name": name, "marker": class_sign(index)} for index, name in enumerate(names)]


def _models(results: Results) -> list[dict[str, str]]:
    known = (
        (results.pretrain, "simclr_backbone.pth", "Encoder", "pretrained without labels"),
        (results.evaluate, "linear.pth", "Linear layer", "on the frozen encoder's features"),
        (results.finetune, "classifier.pth", "Classifier", "encoder and head, fine-tuned"),
        (results.detect, "detector.pt", "Detector", "YOLOv12 on the pretrained encoder"),
    )
    return [
        {"name": name, "file": file, "uri": step.uri, "description": description}
        for step, file, name, description in known
        if step.has(file)
    ]


def _purpose(findings: Findings) -> str:
    parts = []
    for facts in findings.datasets:
        if facts.classes:
            what = "find" if facts.key == "boxes" else "tell apart"
            names = wording.listing([wording.markdown_line(name) for name in facts.classes])
            parts.append(f"{what} {names}")
    return " and to ".join(parts) or "turn images into features"


def _yolo_encoder_note(results: Results) -> str:
    name = str(results.pretrain.settings.get("encoder", ""))
    if not name.startswith("yolo"):
        return ""
    return f", except that this encoder ({name}) is itself built with Ultralytics"
