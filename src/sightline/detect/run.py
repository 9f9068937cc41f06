"""The detection step: YOLOv12 on the pretrained encoder, and the same from scratch."""

from __future__ import annotations

from typing import Any

from sightline.data import PackedDataset, open_dataset
from sightline.detect.config import DetectConfig, DetectUris
from sightline.detect.protocols import train_protocols
from sightline.detect.results import write_results
from sightline.encoders import load_encoder
from sightline.encoders.yolo_scoring import annotated
from sightline.errors import UserError
from sightline.storage import new_artifacts, require_new
from sightline.storage.artifacts import publish_skipped, write_json
from sightline.telemetry import announce


def run(uris: DetectUris, config: DetectConfig) -> dict[str, Any]:
    """Train both detectors, score each once on the test split, and publish them.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: If the result exists already, a split has no annotated image, training has no
            box, Ultralytics is not installed, or the loss is no number.
    """
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no boxes were given, so there is no detector"
        announce("detect", reason)
        return publish_skipped("detect", uris, config, uris.out_uri, reason)
    with new_artifacts("detect", uris, config, uris.out_uri) as folder:
        dataset = annotated(open_dataset(uris.dataset_uri))
        _require_boxes(dataset)
        _require_resolution(dataset, config)
        trainings = train_protocols(load_encoder(uris.encoder_uri), dataset, config)
        metrics = write_results(trainings, dataset, config, folder)
        write_json(folder / "metrics.json", metrics)
    _tell(metrics)
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


def _require_resolution(dataset: PackedDataset, config: DetectConfig) -> None:
    stored = dataset.manifest["stored_short_side_px"]
    if dataset.manifest["scaled_down"] and stored < config.image_size_px:
        raise UserError(
            f"detect at image_size_px {config.image_size_px} needs images stored at least as "
            f"large, {dataset.uri} holds images scaled down to a short side of {stored} px: run "
            f"prepare again with boxes_short_side_px {config.image_size_px}, or set image_size_px "
            f"to {max(32, stored // 32 * 32)} or less"
        )


def _tell(metrics: dict[str, Any]) -> None:
    per_class = metrics["protocols"]["pretrained"]["per_class"]
    absent = [name for name, numbers in per_class.items() if not numbers["boxes"]]
    if absent:
        announce(
            "detect",
            f"the test split has no box of {', '.join(absent)}: their numbers are null and the "
            "means leave them out",
        )
    parts = []
    for protocol, entry in metrics["protocols"].items():
        value, low, high = (
            "none" if entry["map50_95"][key] is None else f"{entry['map50_95'][key]:.3f}"
            for key in ("value", "low", "high")
        )
        parts.append(f"{protocol} {value} ({low}–{high})")
    announce("detect", f"test mAP50-95 {', '.join(parts)}")
