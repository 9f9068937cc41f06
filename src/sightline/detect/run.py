"""The detection step: YOLOv12 on the pretrained encoder, and the same from scratch."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.config import UserError
from sightline.data import PackedDataset, derived_seed, open_dataset
from sightline.detect.config import DetectConfig, DetectUris
from sightline.detect.pictures import draw_pictures
from sightline.encoders import Encoder, build_encoder, load_encoder
from sightline.encoders.yolo_detector import DetectorSpec, build_detector, save_detector
from sightline.encoders.yolo_precision import (
    RECALL_GRID,
    ScoredDetections,
    best_confidence,
    interval,
    precision_at_recall,
    resampled_numbers,
)
from sightline.encoders.yolo_scoring import annotated, entry_of, find_all
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import write_json
from sightline.telemetry import announce, format_duration

if TYPE_CHECKING:
    from sightline.detect.training import Training

FILES = {"pretrained": "detector.pt", "scratch": "detector_scratch.pt"}


def run(uris: DetectUris, config: DetectConfig) -> dict[str, Any]:
    """Train both detectors, score each once on the test split, and publish them.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: If the result exists already, a split has no annotated image, training has no
            box, Ultralytics is not installed, or the loss is no number.
    """
    require_new(uris.out_uri)
    with new_artifacts("detect", uris, config, uris.out_uri) as folder:
        if not uris.dataset_uri:
            metrics: dict[str, Any] = {"skipped": "no boxes were given, so there is no detector"}
        else:
            dataset = annotated(open_dataset(uris.dataset_uri))
            _require_boxes(dataset)
            trainings = _train_both(load_encoder(uris.encoder_uri), dataset, config)
            metrics = _score_once(trainings, dataset, config, folder)
        write_json(folder / "metrics.json", metrics)
    announce("detect", _summary(metrics))
    return metrics


def _require_boxes(dataset: PackedDataset) -> None:
    for split in ("train", "val", "test"):
        if not len(dataset.split(split)):
            raise UserError(
                f"detect needs annotated images in all three splits, {dataset.uri} has none in "
                f"{split}: give more groups, or a table with their splits, and run prepare again"
            )
    if not any(sample.boxes for sample in dataset.split("train").samples):
        raise UserError(
            f"detect needs boxes to learn from, but no training image of {dataset.uri} has any: "
            "check the label files and run prepare again"
        )


def _train_both(
    pretrained: Encoder, dataset: PackedDataset, config: DetectConfig
) -> dict[str, Training]:
    # Here and not above: without boxes, the step must end well without Ultralytics.
    from sightline.detect.training import train_detector

    name = pretrained.spec.name
    scale = name[-1] if name.startswith("yolo12") else config.detector_scale
    spec = DetectorSpec(pretrained.spec, scale, dataset.classes, config.image_size_px)
    encoders = {"pretrained": pretrained}
    if config.scratch:
        seed = derived_seed("detect scratch", config.seed)
        encoders["scratch"] = build_encoder(pretrained.spec, seed=seed)
    counts = {split: len(dataset.split(split)) for split in ("train", "val", "test")}
    announce(
        "detect",
        f"YOLOv12-{scale} on {name}, {' and '.join(encoders)}: {config.epochs} epochs each over "
        f"{counts['train']} images of {config.image_size_px} px, {counts['val']} to choose the "
        f"epoch, {counts['test']} to score once",
    )

    def tell_duration(epoch_seconds: float) -> None:
        total = epoch_seconds * config.epochs * len(encoders)
        announce("detect", f"about {format_duration(total)} on this machine, plus scoring")

    trainings = {}
    for protocol, encoder in encoders.items():
        detector = build_detector(encoder, spec, seed=config.seed)
        with tempfile.TemporaryDirectory(prefix="sightline-yolo-") as scratch:
            trainings[protocol] = train_detector(
                detector,
                protocol,
                dataset,
                config,
                Path(scratch),
                on_timed=tell_duration if protocol == "pretrained" else None,
            )
    return trainings


def _score_once(
    trainings: dict[str, Training], dataset: PackedDataset, config: DetectConfig, folder: Path
) -> dict[str, Any]:
    val, test = dataset.split("val"), dataset.split("test")
    detectors, scores, samples = {}, {}, {}
    for protocol, training in trainings.items():
        announce("detect", f"{protocol}: scoring epoch {training.best_epoch} on the test split")
        confidence = config.confidence or best_confidence(find_all(training.detector, val))
        detectors[protocol] = training.detector.with_confidence(confidence)
        save_detector(detectors[protocol], folder / FILES[protocol])
        scores[protocol] = find_all(detectors[protocol], test)
        samples[protocol] = resampled_numbers(
            scores[protocol],
            confidence,
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
    _write_history(trainings, folder / "history.csv")
    _tell_what_is_missing(metrics)
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


def _write_history(trainings: dict[str, Training], path: Path) -> None:
    rows = [row for training in trainings.values() for row in training.history]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _tell_what_is_missing(metrics: dict[str, Any]) -> None:
    numbers = metrics["protocols"]["pretrained"]["per_class"]
    absent = [name for name, values in numbers.items() if not values["boxes"]]
    if absent:
        announce(
            "detect",
            f"the test split has no box of {', '.join(absent)}: their numbers are null and the "
            "means leave them out",
        )


def _summary(metrics: dict[str, Any]) -> str:
    if "skipped" in metrics:
        return str(metrics["skipped"])
    parts = []
    for protocol, entry in metrics["protocols"].items():
        value = entry["map50_95"]
        shown = [
            "none" if value[k] is None else f"{value[k]:.3f}" for k in ("value", "low", "high")
        ]
        parts.append(f"{protocol} {shown[0]} ({shown[1]}–{shown[2]})")
    return f"test mAP50-95 {', '.join(parts)}"
