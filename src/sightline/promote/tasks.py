"""What promotion must know of a classifier and of a detector: files, classes, how to score one."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.data import PackedDataset
from sightline.data.labelled import require_memory
from sightline.encoders import load_classifier, predict_probabilities
from sightline.promote.config import PromoteUris
from sightline.scoring import score_classification
from sightline.storage import fetch_artifacts
from sightline.storage.artifacts import read_json
from sightline.telemetry import announce, format_duration
from sightline.training.devices import pick_device

_PROBE_IMAGES = 8


@dataclass(frozen=True)
class Score:
    """A champion's numbers on the challenger's test split."""

    entry: dict[str, Any]
    """As an entry of `protocols` in `metrics.json`."""
    probabilities: NDArray[np.float64] | None = None
    """Class probabilities of the split's images in the data set's order; None for a detector."""


class PromotedTask(Protocol):
    """One kind of model that is promoted."""

    step: str
    """The step whose folder holds the challenger."""
    protocol: str
    """The challenger's name in that step's `metrics.json`."""
    files: tuple[str, ...]
    """The files that rebuild the model, in the step's folder as in the store."""

    def step_uri(self, uris: PromoteUris) -> str:
        """Return the address of the challenger's step."""
        ...

    def dataset_uri(self, uris: PromoteUris) -> str:
        """Return the address of the data set that judges."""
        ...

    def classes(self, model_uri: str) -> tuple[str, ...]:
        """Return the classes a stored model knows."""
        ...

    def score(self, model_uri: str, dataset: PackedDataset, seed: int) -> Score:
        """Score a stored model on a data set's test split."""
        ...


class ClassifierTask:
    """The fine-tuned classifier."""

    step = "finetune"
    protocol = "finetuned"
    files: tuple[str, ...] = ("classifier.pth", "classifier.json")

    def step_uri(self, uris: PromoteUris) -> str:
        """Return the address of the finetune step."""
        return uris.finetune_uri

    def dataset_uri(self, uris: PromoteUris) -> str:
        """Return the address of the labelled data set."""
        return uris.labels_uri

    def classes(self, model_uri: str) -> tuple[str, ...]:
        """Return the classes in the order of the logits."""
        described = read_json(fetch_artifacts(model_uri, list(self.files)) / "classifier.json")
        return tuple(described["classes"])

    def score(self, model_uri: str, dataset: PackedDataset, seed: int) -> Score:
        """Score a stored classifier, at the image size it was trained with."""
        classifier = load_classifier(model_uri)
        size = int(read_json(fetch_artifacts(model_uri) / "metrics.json")["image_size"])
        test = dataset.split("test")
        require_memory(test, f"the test split of {dataset.uri}")
        images = list(test.iter_images())
        device = pick_device()
        start = time.perf_counter()
        predict_probabilities(classifier, images[:_PROBE_IMAGES], size, device=device)
        seconds = (time.perf_counter() - start) / len(images[:_PROBE_IMAGES]) * len(images)
        announce(
            "promote",
            f"scoring the champion on {len(images)} test images, about {format_duration(seconds)}",
        )
        own = predict_probabilities(classifier, images, size, device=device)
        # The same classes may stand in another order in a data set made anew.
        order = [classifier.classes.index(name) for name in dataset.classes]
        probabilities = own[:, order]
        entry = score_classification(
            test.label_indices,
            probabilities,
            dataset.classes,
            test.groups,
            labels_used=0,
            seed=seed,
        )
        return Score(entry, probabilities)


class DetectorTask:
    """The detector on the pretrained encoder."""

    step = "detect"
    protocol = "pretrained"
    files: tuple[str, ...] = ("detector.pt",)

    def step_uri(self, uris: PromoteUris) -> str:
        """Return the address of the detect step."""
        return uris.detect_uri

    def dataset_uri(self, uris: PromoteUris) -> str:
        """Return the address of the data set with boxes."""
        return uris.boxes_uri

    def classes(self, model_uri: str) -> tuple[str, ...]:
        """Return the classes in the order of the head."""
        from sightline.encoders.yolo_scoring import load_detector

        return load_detector(model_uri).spec.classes

    def score(self, model_uri: str, dataset: PackedDataset, seed: int) -> Score:
        """Score a stored detector at its own input size and confidence."""
        # Here and not above: classifiers are promoted without Ultralytics.
        from sightline.encoders.yolo_scoring import load_detector, score_detector

        detector = load_detector(model_uri)
        test = dataset.split("test")
        probe = list(test.take(range(min(len(test), _PROBE_IMAGES))).iter_images())
        start = time.perf_counter()
        detector.predict(probe)
        seconds = (time.perf_counter() - start) / max(len(probe), 1) * len(test)
        announce(
            "promote",
            f"scoring the champion on {len(test)} test images, about {format_duration(seconds)}",
        )
        return Score(score_detector(detector, dataset, seed=seed))


TASKS: dict[str, PromotedTask] = {"classification": ClassifierTask(), "detection": DetectorTask()}


def version_of(folder: Path, files: tuple[str, ...]) -> str:
    """Return the 16 digits that name a model: the sha256 over its files' names and contents."""
    digest = hashlib.sha256()
    for name in files:
        content = (folder / name).read_bytes()
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
