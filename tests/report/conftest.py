"""Finished step folders with values chosen by hand, for the report to read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.config import StepConfig, StepUris
from sightline.data import Sample, write_dataset
from sightline.data.shards import PackedImage
from sightline.report.config import ReportConfig, ReportUris
from sightline.report.run import run
from sightline.scoring import score_classification, write_predictions
from sightline.storage import new_artifacts
from sightline.storage.artifacts import write_json


class StandInConfig(StepConfig):
    """Settings of a stand-in step."""

    seed: int = 0
    encoder: str = "resnet18"
    temperature: float = 0.07
    epochs: int = 3


class StandInUris(StepUris):
    """Addresses of a stand-in step."""

    out_uri: str


@dataclass
class RunPlan:
    """What the stand-in steps shall have found; tests change it before it is written."""

    classes: tuple[str, ...] = ("glioma", "no tumor")
    groups_per_class: int = 3
    images_per_group: int = 4
    wrong: dict[str, int] = field(
        default_factory=lambda: {
            "majority": 12,
            "pixel_nearest_neighbour": 8,
            "linear_random": 10,
            "knn": 6,
            "linear": 5,
            "scratch": 4,
            "finetuned": 1,
        }
    )
    """How many test images each protocol gets wrong: every k-th one, spread evenly."""
    pretrain_images: int = 5000
    groups_known: int = 24
    skip_labels: bool = False
    skip_boxes: bool = False
    drop_test_image_of: str = ""


def test_samples(plan: RunPlan) -> list[Sample]:
    """Return the test images in the order of class, group, slice."""
    return [
        Sample(f"{name}/p{group}_{number}.png", f"{name}-p{group}", "test", "0" * 64, "", 0, 0,
               32, 32, label=name)
        for name in plan.classes
        for group in range(plan.groups_per_class)
        for number in range(plan.images_per_group)
    ]  # fmt: skip


def probabilities_with_errors(
    labels: Sequence[int], n_classes: int, wrong: int
) -> np.ndarray[Any, Any]:
    """Return probabilities that are right but for `wrong` images spread evenly."""
    places = set(np.linspace(0, len(labels) - 1, wrong).round().astype(int)) if wrong else set()
    scores = np.full((len(labels), n_classes), 0.1 / max(n_classes - 1, 1))
    for place, label in enumerate(labels):
        answer = (label + 1) % n_classes if place in places else label
        scores[place, answer] = 0.9
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., ReportUris]:
    """Return `write(name, **plan)`: writes five finished steps and returns their addresses."""

    def write(name: str = "run", **plan: Any) -> ReportUris:
        return write_steps(RunPlan(**plan), tmp_path / name)

    return write


@pytest.fixture(scope="session")
def finished_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report on the plain plan; tests only read it."""
    uris = write_steps(RunPlan(), tmp_path_factory.mktemp("report"))
    run(uris, ReportConfig(bootstrap_samples=200))
    return Path(uris.out_uri)


def write_steps(plan: RunPlan, root: Path) -> ReportUris:
    """Write the five step folders that a report reads."""
    samples = test_samples(plan)
    labels = [plan.classes.index(str(sample.label)) for sample in samples]
    uris = ReportUris(
        **{f"{step}_uri": str(root / step) for step in
           ("prepare", "pretrain", "evaluate", "finetune", "detect")},
        out_uri=str(root / "report"),
    )  # fmt: skip
    _write_prepare(plan, samples, root)
    _write_pretrain(plan, root)
    evaluate = ("majority", "pixel_nearest_neighbour", "linear_random", "knn", "linear")
    _write_classifiers(plan, "evaluate", evaluate, samples, labels, root)
    _write_classifiers(plan, "finetune", ("scratch", "finetuned"), samples, labels, root)
    _write_detect(plan, root)
    return uris


def _step(name: str, root: Path) -> Any:
    uri = str(root / name)
    return new_artifacts(name, StandInUris(out_uri=uri), StandInConfig(), uri)


def _write_prepare(plan: RunPlan, samples: Sequence[Sample], root: Path) -> None:
    content = b"\xff\xd8stand-in"
    images = [
        PackedImage(content, "jpg", f"{split}-{sample.name}", f"{split}-{sample.group}", split,
                    32, 32, sample.label)
        for split in ("train", "val", "test")
        for sample in samples
    ]  # fmt: skip
    uri = write_dataset(images, str(root / "datasets"), kind="labels", classes=plan.classes)
    metrics = {
        "datasets": {"images": "", "labels": uri, "boxes": ""},
        "groups": {"source": "the table", "known": plan.groups_known, "images": 24},
        "duplicates": {"exact_across_splits": 2, "near_across_splits": 0},
        "pixel_nearest_neighbour": {"random_split": 0.938, "this_split": 0.702},
        "rejected": [{"set": "labels", "name": "bad.png", "reason": "not an image"}],
        "warnings": ["class <b>x</b> is small"],
    }
    with _step("prepare", root) as folder:
        write_json(folder / "metrics.json", metrics)


def _write_pretrain(plan: RunPlan, root: Path) -> None:
    similarities = np.linspace(-1, 1, 5)
    curves = []
    for temperature in (0.01, 0.07, 1.0):
        weights = np.exp((similarities - 1) / temperature)
        shares = (weights / weights.sum()).tolist()
        curves.append(
            {
                "temperature": temperature,
                "similarities": similarities.tolist(),
                "gradient_shares": shares,
            }
        )
    with _step("pretrain", root) as folder:
        write_json(folder / "temperature.json", {"configured": 0.07, "curves": curves})
        rows = [
            {"epoch": epoch, "loss": 4.1 - 0.4 * epoch, "learning_rate": 0.001 / epoch}
            for epoch in range(1, 6)
        ]
        _write_csv(folder / "history.csv", rows)
        (folder / "simclr_backbone.pth").write_bytes(b"stand-in")
        metrics = {
            "epochs": 5,
            "images": plan.pretrain_images,
            "global_batch_size": 32,
            "chance_loss_nats": 4.05,
        }
        write_json(folder / "metrics.json", metrics)


def _write_classifiers(
    plan: RunPlan,
    step: str,
    protocols: Sequence[str],
    samples: list[Sample],
    labels: list[int],
    root: Path,
) -> None:
    with _step(step, root) as folder:
        if plan.skip_labels:
            write_json(folder / "metrics.json", {"skipped": "no labelled images were given"})
            return
        entries = {}
        for protocol in protocols:
            kept = range(len(samples) - (plan.drop_test_image_of == protocol))
            own_labels = [labels[i] for i in kept]
            own_samples = [samples[i] for i in kept]
            scores = probabilities_with_errors(
                own_labels, len(plan.classes), plan.wrong.get(protocol, 0)
            )
            groups = [sample.group for sample in own_samples]
            entries[protocol] = score_classification(
                own_labels, scores, plan.classes, groups, labels_used=48, bootstrap_samples=200
            )
            path = folder / f"predictions_{protocol}.csv"
            write_predictions(path, own_samples, plan.classes, scores)
        rows = [
            {"protocol": protocol, "epoch": epoch, "train_loss": 1.0, "val_loss": 1.0,
             "train_accuracy": 0.5 + 0.05 * epoch, "val_accuracy": 0.4 + 0.05 * epoch}
            for protocol in protocols
            if protocol in ("linear", "finetuned", "scratch")
            for epoch in range(1, 6)
        ]  # fmt: skip
        _write_csv(folder / "history.csv", rows)
        random = np.random.default_rng(0)
        networks = ("random", "pretrained") if step == "evaluate" else ("finetuned",)
        arrays: dict[str, Any] = {
            key: (random.normal(size=(len(samples), 16)) + 3 * np.array(labels)[:, None]).astype(
                np.float32
            )
            for key in networks
        }
        names = np.array([sample.name for sample in samples])
        np.savez(folder / "test_features.npz", names=names, labels=np.array(labels), **arrays)
        if step == "finetune":
            (folder / "classifier.pth").write_bytes(b"stand-in")
        write_json(folder / "metrics.json", {"protocols": entries})


def _write_detect(plan: RunPlan, root: Path) -> None:
    with _step("detect", root) as folder:
        if plan.skip_boxes:
            write_json(folder / "metrics.json", {"skipped": "no boxes were given"})
            return

        def entry(middle: float) -> dict[str, Any]:
            numbers = {
                name: {"value": middle + shift, "low": middle + shift - 0.05,
                       "high": middle + shift + 0.05}
                for name, shift in (
                    ("map50_95", 0.0), ("map50", 0.2), ("precision", 0.25), ("recall", 0.15)
                )
            }  # fmt: skip
            classes = {
                name: {"map50": middle, "map50_95": middle, "precision": 0.5, "recall": None,
                       "boxes": 9}
                for name in plan.classes
            }  # fmt: skip
            return {"test_images": 240, "test_groups": 40, **numbers, "per_class": classes,
                    "labels_used": 90}  # fmt: skip

        recalls = np.linspace(0, 1, 101)
        curves = {
            protocol: {name: (top * (1 - recalls**3)).tolist() for name in plan.classes}
            for protocol, top in (("pretrained", 0.9), ("scratch", 0.8))
        }
        curves["scratch"][plan.classes[-1]] = None
        content = {"recall": recalls.round(2).tolist(), "protocols": curves}
        (folder / "pr_curves.json").write_text(json.dumps(content))
        (folder / "pictures").mkdir()
        for number in range(2):
            for protocol in ("pretrained", "scratch"):
                pixels = np.full((300, 400, 3), 80 + 60 * number, np.uint8)
                path = folder / "pictures" / f"{number + 1:02d}-{protocol}.jpg"
                Image.fromarray(pixels).save(path)
        (folder / "detector.pt").write_bytes(b"stand-in")
        metrics = {
            "protocols": {"pretrained": entry(0.45), "scratch": entry(0.35)},
            "difference": {"map50_95": {"value": 0.1, "low": 0.02, "high": 0.18}},
        }
        write_json(folder / "metrics.json", metrics)


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
