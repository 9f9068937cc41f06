"""Claim: views drawn by `fast` teach an encoder as much as torchvision's, drawn by `exact`.

Each seed pretrains once with either, on the train split; one linear layer is then trained on the
frozen features, its epoch chosen on val, and judged on test. Besides each accuracy stands the
difference, fast minus exact, over the images of all seeds, with the 95 % interval of a bootstrap
over groups. The claim is missed if the whole interval lies below 0.

The brain MRI set is read without its test fold: folds 1 and 2 train, 3 chooses, 4 judges. The
demo's own 26 test patients tell too little, so some 230 others, drawn with another seed, judge.

    python benchmarks/fast_exact.py --demo
    python benchmarks/fast_exact.py --brain-mri FOLDER/brain-mri-cls
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from brain_mri_table import group_slices
from numpy.typing import NDArray

from sightline.data import PackedDataset, open_dataset
from sightline.data.labelled import LabelledImages, read_labelled
from sightline.demo.config import DemoConfig, DemoUris
from sightline.demo.run import run as draw_demo
from sightline.encoders import encode_images
from sightline.evaluate.config import EvaluateConfig
from sightline.evaluate.linear import train_linear
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run as prepare
from sightline.pretrain import PretrainConfig, pretrain
from sightline.scoring.intervals import paired_difference

SPLIT_OF_FOLD = {"1": "train", "2": "train", "3": "val", "4": "test"}


def main() -> int:
    """Print every accuracy and the difference; 1 if fast is worse beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--demo", action="store_true", help="the drawn phantoms, preset demo")
    which.add_argument("--brain-mri", type=Path, help="the set's folder, preset mri")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0, help="0: the preset's")
    arguments = parser.parse_args()
    preset = "demo" if arguments.demo else "mri"
    with tempfile.TemporaryDirectory() as scratch:
        images, labels = pack(Path(scratch), arguments.brain_mri)
        test = draw_judges(Path(scratch)) if arguments.demo else labels
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        return compare(images, labels, test, preset, seeds, arguments.epochs)


def pack(scratch: Path, brain_mri: Path | None) -> tuple[PackedDataset, PackedDataset]:
    """Return the set to pretrain on and the labelled set, with their splits."""
    table = scratch / "table.csv"
    if brain_mri is None:
        draw_demo(DemoUris(out_uri=str(scratch / "demo")), DemoConfig())
        images, labels = str(scratch / "demo/images"), str(scratch / "demo/labels")
        table = scratch / "demo/table.csv"
    else:
        images, labels = "", str(brain_mri / "train")
        with (brain_mri / "folds.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["author_fold"] in SPLIT_OF_FOLD]
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("name", "group", "split"))
            for name, group, _ in group_slices(rows):
                fold = group.removeprefix("fold").partition("-")[0]
                writer.writerow((f"{name}.jpg", group, SPLIT_OF_FOLD[fold]))
    uris = PrepareUris(
        images_uri=images,
        labels_uri=labels,
        table_uri=str(table),
        store_uri=str(scratch / "store"),
        out_uri=str(scratch / "prepared"),
    )
    found = prepare(uris, PrepareConfig())["datasets"]
    return open_dataset(found["images"]), open_dataset(found["labels"])


def draw_judges(scratch: Path) -> PackedDataset:
    """Return a labelled set of 240 other demo patients, each of them in the test split."""
    folder = scratch / "judges"
    settings = {
        "unlabelled_slices_per_patient": 0,
        "unlabelled_patients": 0,
        "healthy_boxed_slices": 0,
    }
    draw_demo(DemoUris(out_uri=str(folder)), DemoConfig(seed=1, patients=240, **settings))
    table = folder / "table.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    # The other splits must not be empty of any class; the kinds take turns.
    patients = sorted({row.rpartition(",")[2] for row in rows})
    aside = dict.fromkeys(patients[:3], "train") | dict.fromkeys(patients[3:6], "val")
    lines = [f"{row},{aside.get(row.rpartition(',')[2], 'test')}" for row in rows]
    table.write_text("\n".join([f"{header},split", *lines]), encoding="utf-8")
    uris = PrepareUris(
        labels_uri=f"{folder}/labels",
        table_uri=str(table),
        store_uri=f"{folder}/store",
        out_uri=f"{folder}/prepared",
    )
    return open_dataset(prepare(uris, PrepareConfig())["datasets"]["labels"])


def compare(
    images: PackedDataset,
    labels: PackedDataset,
    judges: PackedDataset,
    preset: str,
    seeds: Sequence[int],
    epochs: int,
) -> int:
    """Pretrain with both for each seed, and print what the features are worth."""
    unlabelled = images.split("train")
    pixels, groups = unlabelled.read_images(), [sample.group for sample in unlabelled.samples]
    train, val = (read_labelled(labels, split, "evaluate") for split in ("train", "val"))
    test = read_labelled(judges, "test", "evaluate")
    found: dict[str, list[NDArray[np.float64]]] = {"fast": [], "exact": []}
    print(
        f"preset {preset}: {len(pixels)} images pretrain, {len(train)} train, {len(val)} choose, "
        f"{len(test)} judge"
    )
    for seed in seeds:
        for augmentation, predictions in found.items():
            start = time.monotonic()
            config = PretrainConfig.from_values(
                {
                    "preset": preset,
                    "seed": seed,
                    "augmentation": augmentation,
                    **({"epochs": epochs} if epochs else {}),
                }
            )
            pretrained = pretrain(pixels, config, groups)
            probabilities = judge(pretrained.encoder, (train, val, test), preset, seed)
            predictions.append(probabilities)
            accuracy = (probabilities.argmax(axis=1) == test.labels).mean()
            print(
                f"seed {seed} {augmentation:<6} accuracy {accuracy:.1%}, loss "
                f"{pretrained.history[-1].loss:.3f}, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    return summarise(found, test)


def judge(
    encoder: object, splits: tuple[LabelledImages, ...], preset: str, seed: int
) -> NDArray[np.float64]:
    """Return the test split's class probabilities by one linear layer on frozen features."""
    config = EvaluateConfig.from_values({"preset": preset, "seed": seed})
    train, val, test = (encode_images(encoder, split.images) for split in splits)
    classes = int(splits[0].labels.max()) + 1
    training = train_linear(train, splits[0].labels, val, splits[1].labels, classes, config)
    return training.predict(test)


def summarise(found: dict[str, list[NDArray[np.float64]]], test: LabelledImages) -> int:
    """Print means, spread and the difference over all seeds with its interval."""
    for name, predictions in found.items():
        accuracies = [100 * (p.argmax(axis=1) == test.labels).mean() for p in predictions]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(f"{name:<6} mean accuracy {statistics.fmean(accuracies):.1f} %, sd {spread:.1f}")
    seeds = len(found["fast"])
    worse = False
    for metric in ("accuracy", "balanced_accuracy"):
        difference = paired_difference(
            metric,
            np.tile(test.labels, seeds),
            np.concatenate(found["fast"]),
            np.concatenate(found["exact"]),
            test.groups * seeds,
        )
        value, low, high = (100 * (difference[part] or 0.0) for part in ("value", "low", "high"))
        print(f"fast - exact, {metric}: {value:+.1f} points ({low:+.1f} to {high:+.1f})")
        worse |= metric == "accuracy" and high < 0
    print("missed" if worse else "kept")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
