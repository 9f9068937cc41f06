"""The challenger: what a run offers for promotion, and its copy in the store of models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.data import PackedDataset, open_dataset
from sightline.errors import UserError
from sightline.promote.config import PromoteConfig, PromoteUris
from sightline.promote.tasks import PromotedTask, Score, version_of
from sightline.scoring import paired_difference, read_predictions
from sightline.storage import fetch_artifacts, new_artifacts, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE, read_json, write_json


@dataclass(frozen=True)
class Challenger:
    """A finished model, its numbers, and the data set whose test split gave them."""

    uri: str
    folder: Path
    version: str
    classes: tuple[str, ...]
    entry: dict[str, Any]
    image_size: int
    dataset: PackedDataset

    def number(self, metric: str) -> dict[str, Any]:
        """Return a metric with `value`, `low` and `high`."""
        return dict(self.entry[metric])


def read_challenger(task: PromotedTask, uris: PromoteUris) -> Challenger | str:
    """Return the challenger, or in words why there is none.

    Raises:
        NotFoundError: If its step has not finished.
        UserError: If its step's address is missing, a file was altered, or it was scored on
            another data set than is judged on.
    """
    uri = task.step_uri(uris)
    if not uri:
        raise UserError(f"{task.step}_uri is required to promote what {task.step} trained")
    folder = fetch_artifacts(uri, ["metrics.json", "config.json"])
    metrics = read_json(folder / "metrics.json")
    if metrics.get("skipped"):
        return f"{task.step} was skipped: {metrics['skipped']}"
    if not task.dataset_uri(uris):
        return "no data set was given to judge on"
    folder = fetch_artifacts(uri, list(task.files))
    dataset = open_dataset(task.dataset_uri(uris))
    own_uri = str(read_json(folder / "config.json")["uris"]["dataset_uri"])
    own_digest = open_dataset(own_uri).digest
    if own_digest != dataset.digest:
        raise UserError(
            f"the challenger in {uri} was scored on data set {own_digest[:16]}, but promote was "
            f"given {dataset.digest[:16]}: give the data set that {task.step} used, {own_uri}"
        )
    return Challenger(
        uri=uri,
        folder=folder,
        version=version_of(folder, task.files),
        classes=task.classes(uri),
        entry=metrics["protocols"][task.protocol],
        image_size=int(metrics.get("image_size", 0)),
        dataset=dataset,
    )


def measure_difference(
    challenger: Challenger, protocol: str, score: Score, metric: str, seed: int
) -> dict[str, Any] | None:
    """Return challenger minus champion with its paired interval; None for detectors."""
    if score.probabilities is None:
        return None
    file_name = f"predictions_{protocol}.csv"
    rival = read_predictions(fetch_artifacts(challenger.uri, [file_name]) / file_name)
    samples = challenger.dataset.split("test").samples
    places = {sample.name: place for place, sample in enumerate(samples)}
    champion = score.probabilities[[places[name] for name in rival.names]]
    return paired_difference(
        metric, rival.labels, rival.probabilities, champion, rival.groups, seed=seed
    )


def count_seen(champion: dict[str, Any], dataset: PackedDataset) -> int | None:
    """Return how many test images the champion learned from or was chosen by.

    Groups keep their split as long as prepare's split_seed stays; with another, a champion may be
    judged on images it knows, which favours it. None: its data set is gone, nobody can tell.
    """
    try:
        own = open_dataset(str(champion.get("dataset_uri", "")))
    except UserError:
        return None
    known = {sample.sha256 for sample in own.samples if sample.split != "test"}
    return sum(sample.sha256 in known for sample in dataset.split("test").samples)


def store_model(
    challenger: Challenger,
    task: PromotedTask,
    model_uri: str,
    uris: PromoteUris,
    config: PromoteConfig,
) -> None:
    """Copy the challenger's files into the store, so that deleting its run never harms it.

    A version that is there already holds the same bytes and is left as it is.
    """
    storage = open_storage(model_uri)
    if not storage.exists(ARTIFACTS_FILE):
        try:
            _copy(challenger, task, model_uri, uris, config)
        except UserError:
            # Another run that stores the same model may have finished first.
            if not storage.exists(ARTIFACTS_FILE):
                raise
    else:
        # Written again it counts as new, and no gc takes it before it is the champion.
        storage.write_bytes(ARTIFACTS_FILE, storage.read_bytes(ARTIFACTS_FILE))
    fetch_artifacts(model_uri)


def _copy(
    challenger: Challenger,
    task: PromotedTask,
    model_uri: str,
    uris: PromoteUris,
    config: PromoteConfig,
) -> None:
    with new_artifacts("promote", uris, config, model_uri) as folder:
        for name in task.files:
            shutil.copyfile(challenger.folder / name, folder / name)
        facts = {
            "version": challenger.version,
            "classes": list(challenger.classes),
            "image_size": challenger.image_size,
            "source_uri": challenger.uri,
            "dataset_digest": challenger.dataset.digest,
        }
        write_json(folder / "metrics.json", facts)
