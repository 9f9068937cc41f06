"""What was asked and what it was asked of: settings, versions, data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightline.data import SPLITS, open_dataset
from sightline.report.config import ReportConfig
from sightline.report.results import Results, StepResult
from sightline.report.wording import count, listing, percent

_SHOWN = 8

DATASET_TITLES = {
    "images": "Unlabelled images, for pretraining",
    "labels": "Labelled images, for classification",
    "boxes": "Images with boxes, for detection",
}
_PURPOSES = {"images": "for pretraining", "labels": "with labels", "boxes": "with boxes"}


@dataclass(frozen=True)
class DatasetFacts:
    """One data set version: how many images each split and class has."""

    key: str
    title: str
    uri: str
    digest: str
    groups: int
    splits: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    images: int


def read_datasets(results: Results) -> list[DatasetFacts]:
    """Return the data set versions that prepare made."""
    named: dict[str, str] = results.prepare.metrics.get("datasets") or {}
    found = []
    for key, uri in named.items():
        if not uri:
            continue
        manifest = open_dataset(uri).manifest
        counts = manifest["counts"]
        found.append(
            DatasetFacts(
                key=key,
                title=DATASET_TITLES.get(key, key),
                uri=uri,
                digest=manifest["digest"],
                groups=manifest["groups"],
                splits={name: counts[name] for name in SPLITS},
                classes=tuple(manifest["classes"]),
                images=counts["images"],
            )
        )
    return found


def data_notes(results: Results) -> list[str]:
    """Return what prepare found in words: rejected files, copies, leaks, warnings."""
    metrics = results.prepare.metrics
    notes = []
    rejected = metrics.get("rejected") or []
    if rejected:
        shown = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in rejected[:_SHOWN])
        more = f"; and {len(rejected) - _SHOWN:,} more" if len(rejected) > _SHOWN else ""
        notes.append(f"{count(len(rejected), 'file')} rejected ({shown}{more}).")
    else:
        notes.append("No file was rejected.")
    copies = metrics.get("duplicates") or {}
    if copies.get("exact_across_splits"):
        notes.append(
            f"{count(copies['exact_across_splits'], 'image')} of a held-out split had an exact "
            "copy in another split; prepare kept the copies out of training."
        )
    if copies.get("near_across_splits"):
        least = "" if copies["near_complete"] else "At least "
        notes.append(
            f"{least}{count(copies['near_across_splits'], 'pair')} of nearly equal images lie in "
            "different splits: scores may be too high."
        )
    leak = metrics.get("pixel_nearest_neighbour")
    if leak:
        notes.append(
            f"The nearest thumbnail names the class of {percent(leak['this_split'])} of the test "
            f"images with this split and of {percent(leak['random_split'])} with a random split of "
            "single images; what the random one has more is what it would have leaked."
        )
    return [*notes, *map(str, metrics.get("warnings") or [])]


def question(results: Results, datasets: Sequence[DatasetFacts]) -> list[str]:
    """Return in sentences what this run was asked, with which data, settings and seeds."""
    data = listing(
        [
            f"{count(facts.images, 'image')} {_PURPOSES[facts.key]} (version {facts.digest[:8]})"
            for facts in datasets
        ]
    )
    kinds = {"labels": "a classifier", "boxes": "a detector"}
    wanted = [kinds[facts.key] for facts in datasets if facts.key in kinds]
    told = [f"What does SimCLR pretraining learn from {data or 'no data set'}?"]
    if wanted:
        are = "is" if len(wanted) == 1 else "are"
        them = "it" if len(wanted) == 1 else "them"
        told = [
            f"How good {are} {listing(wanted)}, given {data}, and does SimCLR pretraining help "
            f"{them}?"
        ]
    pretrain, finetune, detect = results.pretrain, results.finetune, results.detect
    trained = []
    if not pretrain.skipped:
        encoder = pretrain.settings.get("encoder", "encoder")
        trained.append(f"{encoder} pretrained for {_epochs(pretrain)}")
    if not finetune.skipped:
        trained.append(f"a classifier fine-tuned for {_epochs(finetune)}")
    if not detect.skipped:
        trained.append(f"a detector trained for {_epochs(detect)}")
    if trained:
        seeds = _seeds(results)
        with_seeds = f", with {'seed' if len(seeds) == 1 else 'seeds'} {listing(seeds)}"
        told.append(f"Trained: {listing(trained)}{with_seeds if seeds else ''}.")
    told.append(
        "Whether a model replaces the present champion is asked afterwards, by promote: its "
        "decision.json holds the metric, the floor and the margin."
    )
    return told


def _epochs(step: StepResult) -> str:
    epochs = step.metrics.get("epochs", step.settings.get("epochs"))
    return count(epochs, "epoch") if isinstance(epochs, int) else "some epochs"


def _seeds(results: Results) -> list[str]:
    seeds = {step.settings["seed"] for step in results.steps().values() if "seed" in step.settings}
    return [str(seed) for seed in sorted(seeds)]


def asked(results: Results, config: ReportConfig) -> list[tuple[str, str]]:
    """Return what was asked as names and values, the most telling ones first."""
    pretrain = results.pretrain.settings
    pairs = [
        ("Seeds", ", ".join(_seeds(results)) or "none"),
        ("Encoder", str(pretrain.get("encoder", ""))),
        ("Image size", f"{pretrain['image_size']} px" if "image_size" in pretrain else ""),
        ("Pretraining epochs", str(results.pretrain.metrics.get("epochs", ""))),
        ("Pretraining images", str(results.pretrain.metrics.get("images", ""))),
        ("Batch", str(results.pretrain.metrics.get("global_batch_size", ""))),
        ("Temperature", str(pretrain.get("temperature", ""))),
        ("Fine-tuning epochs", str(results.finetune.settings.get("epochs", ""))),
        ("Detector epochs", str(results.detect.settings.get("epochs", ""))),
        ("Groups", config.groups_are or _group_source(results)),
        ("Versions", ", ".join(f"{name} {text}" for name, text in versions(results).items())),
    ]
    return [(name, value) for name, value in pairs if value]


def _group_source(results: Results) -> str:
    return str((results.prepare.metrics.get("groups") or {}).get("source", ""))


def readable_settings(results: Results) -> dict[str, dict[str, str]]:
    """Return every step's settings as a user would type them."""
    return {
        name: {key: show_setting(value) for key, value in values.items()}
        for name, values in step_settings(results).items()
        if values
    }


def show_setting(value: Any) -> str:
    """Return a setting's value as a user would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value == "" else str(value)


def step_settings(results: Results) -> dict[str, dict[str, Any]]:
    """Return every step's settings by step."""
    return {name: step.settings for name, step in results.steps().items()}


def versions(results: Results) -> dict[str, str]:
    """Return the versions of the software that produced the results."""
    merged: dict[str, str] = {}
    for step in results.steps().values():
        merged.update(step.config.get("versions", {}))
    return merged
