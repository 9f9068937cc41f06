"""What the step leaves: the detectors, their scores on the test split, curves and history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.data import PackedDataset
from sightline.detect.config import DetectConfig
from sightline.detect.pictures import draw_pictures
from sightline.encoders.yolo_detector import save_detector
from sightline.encoders.yolo_scoring import entry_of, find_all
from sightline.scoring.detection import (
    RECALL_GRID,
    ScoredDetections,
    best_confidence,
    precision_at_recall,
    resampled_numbers,
)
from sightline.scoring.intervals import interval
from sightline.storage.artifacts import write_json
from sightline.telemetry import announce
from sightline.training.history import HISTORY_FILE, write_rows

if TYPE_CHECKING:
    from sightline.detect.training import Training

FILES = {"pretrained": "detector.pt", "scratch": "detector_scratch.pt"}


def write_results(
    trainings: dict[str, Training], dataset: PackedDataset, config: DetectConfig, folder: Path
) -> dict[str, Any]:
    """Score each detector once on the test split and write everything but `metrics.json`.

    Returns:
        The content of `metrics.json`.
    """
    val, test = dataset.split("val"), dataset.split("test")
    detectors, scores, samples = {}, {}, {}
    for protocol, training in trainings.items():
        confidence = config.confidence or best_confidence(find_all(training.detector, val))
        detectors[protocol] = training.detector.with_confidence(confidence)
        save_detector(detectors[protocol], folder / FILES[protocol])
    for protocol, detector in detectors.items():
        epoch = trainings[protocol].best_epoch
        announce("detect", f"{protocol}: scoring epoch {epoch} on the test split")
        scores[protocol] = find_all(detector, test)
        samples[protocol] = resampled_numbers(
            scores[protocol],
            detector.spec.confidence,
            bootstrap_samples=config.bootstrap_samples,
            seed=config.seed,
        )
    train = dataset.split("train")
    used = {
        "labels_used": len(train),
        "boxes_used": sum(len(sample.boxes or ()) for sample in train.samples),
    }
    metrics: dict[str, Any] = {
        "classes": list(dataset.classes),
        "encoder": trainings["pretrained"].detector.spec.encoder.name,
        "detector_scale": trainings["pretrained"].detector.spec.scale,
        "protocols": {
            protocol: {
                **used,
                "best_epoch": trainings[protocol].best_epoch,
                **entry_of(
                    scores[protocol], detectors[protocol].spec.confidence, samples[protocol]
                ),
            }
            for protocol in trainings
        },
    }
    if "scratch" in trainings:
        metrics["difference"] = {"map50_95": _difference(metrics["protocols"], samples)}
    metrics["pictures"] = draw_pictures(
        detectors, test, folder / "pictures", count=config.picture_count, seed=config.seed
    )
    write_json(folder / "pr_curves.json", _curves(scores))
    rows = [row for training in trainings.values() for row in training.history]
    write_rows(folder / HISTORY_FILE, rows)
    return metrics


def _difference(
    protocols: dict[str, Any], samples: dict[str, dict[str, np.ndarray[Any, Any]]]
) -> dict[str, float | None]:
    values = [protocols[name]["map50_95"]["value"] for name in ("pretrained", "scratch")]
    value = float("nan") if None in values else values[0] - values[1]
    paired = samples["pretrained"]["map50_95"] - samples["scratch"]["map50_95"]
    return interval(value, paired, protocols["pretrained"]["test_groups"])


def _curves(scores: dict[str, ScoredDetections]) -> dict[str, Any]:
    curves: dict[str, Any] = {"recall": RECALL_GRID.round(2).tolist(), "protocols": {}}
    for protocol, scored in scores.items():
        curves["protocols"][protocol] = {
            name: None if np.isnan(values).any() else values.round(6).tolist()
            for name, values in zip(scored.classes, precision_at_recall(scored), strict=True)
        }
    return curves
