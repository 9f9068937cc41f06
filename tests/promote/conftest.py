"""Challengers whose scores are known by construction: a classifier that reads a square's gray."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.config import StepConfig, StepUris
from sightline.data import open_dataset, write_dataset
from sightline.data.shards import PackedImage
from sightline.encoders import (
    Classifier,
    EncoderSpec,
    build_encoder,
    predict_probabilities,
    save_classifier,
)
from sightline.promote.config import PromoteConfig, PromoteUris
from sightline.promote.run import run
from sightline.scoring import score_classification, write_predictions
from sightline.storage import new_artifacts
from sightline.storage.artifacts import write_json

SIDE_PX = 32
GRAYS = {"dark": 40, "light": 215}
TEST_IMAGES = 20


class StandInConfig(StepConfig):
    """Settings of a stand-in step."""


class StandInUris(StepUris):
    """Addresses of a stand-in step."""

    dataset_uri: str
    out_uri: str


@pytest.fixture(scope="session")
def gray_classifier() -> Callable[..., Classifier]:
    """Return `build(classes)`: a ResNet-18 whose head tells dark from light without any error.

    The head is the least-squares answer for the two grays, so it is right by construction.
    """
    encoder = build_encoder(EncoderSpec("resnet18", SIDE_PX), seed=0).eval()
    with torch.no_grad():
        grays = torch.tensor([GRAYS["dark"], GRAYS["light"]]) / 255
        features = encoder(grays.view(2, 1, 1, 1).expand(2, 3, SIDE_PX, SIDE_PX))
    middle, direction = features.mean(0), features[1] - features[0]
    direction = 20 * direction / direction.square().sum()

    def build(classes: tuple[str, ...] = ("dark", "light")) -> Classifier:
        classifier = Classifier(build_encoder(EncoderSpec("resnet18", SIDE_PX), seed=0), classes)
        with torch.no_grad():
            classifier.head.weight.zero_()
            classifier.head.bias.zero_()
            light = classes.index("light")
            classifier.head.weight[light] = direction
            classifier.head.bias[light] = -(middle @ direction)
        return classifier.eval()

    return build


def make_gray_dataset(
    store: Path,
    classes: tuple[str, ...] = ("dark", "light"),
    swapped: int = 0,
    seed: int = 0,
    turned: bool = False,
) -> str:
    """Pack 20 test images, half dark and half light; `swapped` of them carry the wrong label.

    Turned, the test split begins with the images that are otherwise the train split.
    """
    marks = {"train": 2, "val": 1, "test": 0} if turned else {"train": 0, "val": 1, "test": 2}
    images = []
    for split, count in (("train", 4), ("val", 4), ("test", TEST_IMAGES)):
        for number in range(count):
            gray = tuple(GRAYS)[number % 2]
            other = tuple(GRAYS)[1 - number % 2]
            is_swapped = split == "test" and number < swapped
            # One level of gray apart, so that every image is its own.
            pixels = np.full((SIDE_PX, SIDE_PX, 3), GRAYS[gray], np.uint8)
            pixels[0, 0] = number + 50 * seed
            pixels[0, 1] = marks[split]
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            images.append(
                PackedImage(
                    content=buffer.getvalue(),
                    suffix="png",
                    name=f"{split}/{number:02d}.png",
                    group=f"{split}-{number:02d}",
                    split=split,
                    width=SIDE_PX,
                    height=SIDE_PX,
                    label=other if is_swapped else gray,
                )
            )
    return write_dataset(images, str(store), kind="labels", classes=classes)


@pytest.fixture(scope="session")
def finetuned(
    tmp_path_factory: pytest.TempPathFactory, gray_classifier: Callable[..., Classifier]
) -> Callable[..., str]:
    """Return `finetuned(dataset_uri, wrong, scale)`: the address of a finished finetune step."""
    root = tmp_path_factory.mktemp("finetuned")

    @functools.cache
    def finish(dataset_uri: str, wrong: int, scale: float) -> str:
        dataset = open_dataset(dataset_uri)
        classifier = gray_classifier(dataset.classes)
        with torch.no_grad():
            classifier.head.weight *= scale
            classifier.head.bias *= scale
            if wrong:
                assert wrong == TEST_IMAGES // 2
                classifier.head.weight.zero_()
                classifier.head.bias.zero_()
                classifier.head.bias[dataset.classes.index("dark")] = scale
        test = dataset.split("test")
        probabilities = predict_probabilities(classifier, test.read_images(), SIDE_PX)
        entry = score_classification(
            test.label_indices, probabilities, dataset.classes, test.groups, labels_used=4
        )
        uri = str(root / f"{dataset.digest[:16]}-{wrong}-{scale:g}")
        uris = StandInUris(dataset_uri=dataset_uri, out_uri=uri)
        with new_artifacts("finetune", uris, StandInConfig(), uri) as folder:
            save_classifier(classifier, folder)
            path = folder / "predictions_finetuned.csv"
            write_predictions(path, test.samples, dataset.classes, probabilities)
            metrics = {"protocols": {"finetuned": entry}, "image_size": SIDE_PX}
            write_json(folder / "metrics.json", metrics)
        return uri

    return finish


class Runs:
    """Finished runs, and promotions of them into one store of models."""

    def __init__(self, root: Path, datasets: Path, finetuned: Callable[..., str]) -> None:
        self.root = root
        self.models = root / "models"
        self._datasets = datasets
        self._finetuned = finetuned

    def dataset(self, **options: object) -> str:
        """Return the address of a data set of grays."""
        return make_gray_dataset(self._datasets, **options)  # type: ignore[arg-type]

    def finetune(self, dataset_uri: str, wrong: int = 0, scale: float = 1.0) -> str:
        """Return a finetune step whose classifier is right (wrong=0) or says dark (wrong=10).

        Another `scale` of the head makes another model with the same answers. Steps are only
        read, so tests share them.
        """
        return self._finetuned(dataset_uri, wrong, scale)

    def skipped(self, name: str, step: str, reason: str) -> str:
        """Write a step that did no work."""
        uri = str(self.root / name / step)
        uris = StandInUris(dataset_uri="", out_uri=uri)
        with new_artifacts(step, uris, StandInConfig(), uri) as folder:
            write_json(folder / "metrics.json", {"skipped": reason})
        return uri

    def uris(self, name: str, finetune_uri: str, dataset_uri: str) -> PromoteUris:
        """Return the addresses of a promotion."""
        return PromoteUris(
            report_uri=str(self.root / name / "report"),
            finetune_uri=finetune_uri,
            detect_uri=str(self.root / name / "detect"),
            labels_uri=dataset_uri,
            models_uri=str(self.models),
            out_uri=str(self.root / name / "promote"),
        )

    def promote(self, run_id: str, finetune_uri: str, dataset_uri: str, **settings: object) -> dict:
        """Judge a finished finetune step."""
        config = PromoteConfig.from_values(settings)
        return run(self.uris(run_id, finetune_uri, dataset_uri), config)

    def champion(self) -> dict:
        """Return the champion's record."""
        path = self.models / "classification" / "default" / "champion.json"
        return json.loads(path.read_text())


@pytest.fixture
def runs(
    tmp_path: Path, finetuned: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """Return finished runs and an empty store of models."""
    return Runs(tmp_path, tmp_path_factory.getbasetemp() / "gray-datasets", finetuned)
