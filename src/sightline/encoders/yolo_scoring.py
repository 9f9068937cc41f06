"""The one way a detector is scored: while it trains, at its end, and when it is promoted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data import PackedDataset
from sightline.encoders.yolo_detector import Detector, load_detector
from sightline.errors import UserError
from sightline.scoring.detection import (
    HEADLINES,
    Detections,
    ScoredDetections,
    headline_numbers,
    per_class_numbers,
    resampled_numbers,
)
from sightline.scoring.intervals import interval
from sightline.training.devices import pick_device

__all__ = ["entry_of", "find_all", "load_detector", "score_detector", "true_detections"]

_BATCH = 16


def score_detector(
    detector: Detector, dataset: PackedDataset, *, bootstrap_samples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Score a detector on the annotated images of a data set's test split.

    Args:
        detector: From `load_detector`; precision and recall are taken at its own confidence.
        dataset: A data set version with boxes; its classes may stand in another order.
        bootstrap_samples: Number of resamples of the test split's groups.
        seed: Seed of the resamples.

    Returns:
        `map50`, `map50_95`, `precision`, `recall`, each with `value`, `low`, `high` as shares of 1
        or null; `per_class`; `test_images`, `test_groups`.

    Raises:
        UserError: If the split has no annotated image, or a class the detector does not know.
    """
    scored = find_all(detector, annotated(dataset.split("test")))
    if not scored.groups:
        raise UserError(f"{dataset.uri} has no annotated image in its test split")
    samples = resampled_numbers(
        scored, detector.spec.confidence, bootstrap_samples=bootstrap_samples, seed=seed
    )
    return entry_of(scored, detector.spec.confidence, samples)


def entry_of(
    scored: ScoredDetections, confidence: float, samples: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """Return a protocol's entry of `metrics.json` from its detections and their resamples."""
    groups = len(set(scored.groups))
    numbers = headline_numbers(scored, scored.even_weights, confidence)
    return {
        "test_images": len(scored.groups),
        "test_groups": groups,
        **{name: interval(numbers[name], samples[name], groups) for name in HEADLINES},
        "confidence": confidence,
        "per_class": per_class_numbers(scored, confidence),
    }


def annotated(dataset: PackedDataset) -> PackedDataset:
    """Return the images that were annotated; one without any object counts, too."""
    places = [i for i, sample in enumerate(dataset.samples) if sample.boxes is not None]
    return dataset.take(places)


def find_all(
    detector: Detector,
    dataset: PackedDataset,
    images: Iterable[NDArray[np.uint8]] | None = None,
) -> ScoredDetections:
    """Run a detector over every image of a data set and match what it finds.

    Args:
        detector: From `load_detector`.
        dataset: A data set version with boxes, or a part of one.
        images: Its images in its order, where they are at hand; left out, they are read.

    Raises:
        UserError: If the data set has a class that the detector does not know.
    """
    detector.network.to(pick_device())
    truths = [true_detections(dataset, i, detector.spec.classes) for i in range(len(dataset))]
    found: list[Detections] = []
    stored = iter(dataset.iter_images() if images is None else images)
    while batch := list(itertools.islice(stored, _BATCH)):
        found.extend(detector.predict(batch))
    return ScoredDetections.from_images(detector.spec.classes, dataset.groups, truths, found)


def true_detections(dataset: PackedDataset, index: int, classes: tuple[str, ...]) -> Detections:
    """Return an image's annotated boxes in its own pixels.

    Raises:
        UserError: If a box is of another class than `classes`.
    """
    sample = dataset.samples[index]
    boxes = sample.boxes or ()
    unknown = sorted({box.class_name for box in boxes} - set(classes))
    if unknown:
        raise UserError(
            f"{dataset.uri} has boxes of class {unknown[0]!r} (in {sample.name}), which the "
            f"detector does not know; it was trained on {', '.join(classes)}"
        )
    centers = np.array([[b.x_center, b.y_center] for b in boxes], np.float64).reshape(-1, 2)
    sizes = np.array([[b.width, b.height] for b in boxes], np.float64).reshape(-1, 2)
    corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    return Detections(
        corners * np.array([sample.width, sample.height] * 2),
        np.array([classes.index(box.class_name) for box in boxes], np.int64),
        np.ones(len(boxes)),
    )
