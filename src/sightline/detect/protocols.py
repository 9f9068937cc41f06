"""The two trainings that are compared: on the pretrained encoder, and from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sightline.data import PackedDataset, derived_seed
from sightline.detect.config import DetectConfig
from sightline.detect.yolo_folder import write_yolo_folder
from sightline.encoders import Encoder, build_encoder
from sightline.encoders.yolo_detector import DetectorSpec, build_detector
from sightline.storage.scratch import ScratchFolder
from sightline.telemetry import announce, count, format_duration

if TYPE_CHECKING:
    from sightline.detect.training import Training


def train_protocols(
    pretrained: Encoder, dataset: PackedDataset, config: DetectConfig
) -> dict[str, Training]:
    """Train a detector on the pretrained encoder and, if asked, its twin from scratch.

    Both start from the same head and see the same images in the same order.
    """
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
        f"YOLOv12-{scale} on {name}, {' and '.join(encoders)}: {count(config.epochs, 'epoch')} "
        f"each over {counts['train']} images of {config.image_size_px} px, {counts['val']} to "
        f"choose the epoch, {counts['test']} to score once",
    )

    def tell_duration(epoch_seconds: float) -> None:
        total = epoch_seconds * config.epochs * len(encoders)
        announce("detect", f"about {format_duration(total)} on this machine, plus scoring")

    trainings = {}
    with ScratchFolder("yolo") as scratch:
        images = write_yolo_folder(dataset, scratch / "set", max_gib=config.max_local_gib)
        for protocol, encoder in encoders.items():
            trainings[protocol] = train_detector(
                build_detector(encoder, spec, seed=config.seed),
                protocol,
                images,
                config,
                on_timed=tell_duration if protocol == "pretrained" else None,
            )
    return trainings
