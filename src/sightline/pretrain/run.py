"""Pretraining, as its table of contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, cast

from sightline.data import PackedDataset, open_dataset
from sightline.data.stream import ImageStream
from sightline.encoders import save_encoder
from sightline.encoders.files import local_weights
from sightline.errors import UserError
from sightline.machine import started_by_torchrun
from sightline.pretrain.config import PretrainConfig, PretrainUris, require_given_weights
from sightline.pretrain.curves import draw_curves, write_history, write_steps
from sightline.pretrain.probe import NeighbourProbe
from sightline.pretrain.temperature import temperature_figure
from sightline.pretrain.train import Pretrained, pretrain_from
from sightline.pretrain.watch import write_events
from sightline.storage import (
    NotFoundError,
    fetch_artifacts,
    join_uri,
    new_artifacts,
    require_new,
)
from sightline.storage.artifacts import publish_skipped, read_json, write_json
from sightline.storage.begun import step_begun
from sightline.storage.retries import retry_counts
from sightline.telemetry import announce, count
from sightline.telemetry.exporter import Exporter
from sightline.training import distributed
from sightline.training.devices import device_count, pick_device, seed_everything
from sightline.training.launch import launch, report_errors, workers_here
from sightline.training.recovery import Recovery, recovery_of

CHECKPOINTS_FOLDER = "checkpoints"
"""Where a run's checkpoints lie below `out_uri`, until its result is published."""
TENSORBOARD_FOLDER = "tensorboard"
"""Where a result has its event file."""


def run(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    """Learn an encoder from a packed data set's train split and publish it.

    With several workers the step starts itself again under torchrun, and rank 0 publishes. While
    it trains, checkpoints lie under `out_uri`; killed at any moment and started again, it goes on
    from the last and learns the same. Started again when it has finished, it says so.

    Returns:
        The step's metrics.

    Raises:
        UserError: If the data set holds fewer images than a batch, the loss is no longer a
            number, or `out_uri` holds a finished result of other settings.
        PreemptedError: After a SIGTERM, with everything saved.
        AlreadyRunningError: If another process trains the same `out_uri`.
    """
    with ExitStack() as stack:
        stack.enter_context(report_errors(distributed.is_lost_peer))
        if started_by_torchrun():  # an error of it, too, is to be told where the launcher finds it
            stack.enter_context(step_begun("pretrain", uris))
        return _run(uris, config)


def _run(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    require_given_weights(uris.initial_weights_uri, config)
    finished = _read_finished(uris, config)
    if finished is not None:
        return finished
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no images were given, so there is nothing to pretrain on"
        announce("pretrain", reason)
        return publish_skipped("pretrain", uris, config, uris.out_uri, reason)
    if config.workers > 1 and not started_by_torchrun():
        return _run_in_workers(uris, config)
    device = pick_device()
    exporter = Exporter(retry_counts)
    with distributed.process_group(device, config.stall_minutes):
        seed_everything(config.seed)
        dataset = open_dataset(uris.dataset_uri)
        _announce_plan(dataset, config)
        source = _open_stream(dataset, config)
        identity = {**_what_counts(config.to_json(), config), "dataset": dataset.digest}
        with ExitStack() as stack:
            weights = None
            if uris.initial_weights_uri:
                weights, identity["initial_weights"] = stack.enter_context(
                    local_weights(uris.initial_weights_uri, config.initial_weights_sha256)
                )
            if distributed.is_main():
                stack.enter_context(exporter.serving("pretrain"))
            recovery = stack.enter_context(_recovery(identity, uris, config, exporter))
            # Asked again: while we waited for the claim, its holder may have finished.
            finished = distributed.from_main(lambda: _read_finished(uris, config))
            if finished is not None:
                recovery.is_over = True
                return finished
            probe = None
            if uris.labels_uri and config.knn_epochs and distributed.is_main():
                probe = NeighbourProbe(open_dataset(uris.labels_uri))
            pretrained = pretrain_from(source, config, recovery, exporter, weights, probe)
            metrics = _measure(pretrained, source, config)
            if weights is not None:
                metrics["initial_weights_sha256"] = identity["initial_weights"]
            if distributed.is_main():
                _publish(uris, config, pretrained, metrics)
            recovery.is_over = True
    return metrics


def _read_finished(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any] | None:
    """Return the metrics of a finished result of the same data and settings, if there is one."""
    try:
        folder = fetch_artifacts(uris.out_uri, ["config.json", "metrics.json"])
    except NotFoundError:
        return None
    present = read_json(folder / "config.json")
    same = present["uris"] == uris.to_json() and _what_counts(
        present["settings"], config
    ) == _what_counts(config.to_json(), config)
    if not same or not _starts_alike(uris, config, folder):
        return None
    announce("pretrain", f"{uris.out_uri} holds the finished result of these very settings")
    return cast(dict[str, Any], read_json(folder / "metrics.json"))


def _starts_alike(uris: PretrainUris, config: PretrainConfig, finished: Path) -> bool:
    """Say whether a finished result began with the weights given; true where none can be read."""
    if not uris.initial_weights_uri:
        return True
    try:
        with local_weights(uris.initial_weights_uri, config.initial_weights_sha256) as (_, digest):
            metrics = read_json(finished / "metrics.json")
            return bool(metrics.get("initial_weights_sha256", digest) == digest)
    except UserError:
        return True


def _what_counts(settings: Mapping[str, Any], config: PretrainConfig) -> dict[str, Any]:
    left_out = set(config.changes_no_result)
    if config.batch_norm == "per_worker":  # of how many images each worker sees the statistics
        left_out.remove("workers")
    return {name: v for name, v in settings.items() if name not in left_out}


def _recovery(
    identity: Mapping[str, Any], uris: PretrainUris, config: PretrainConfig, exporter: Exporter
) -> AbstractContextManager[Recovery]:
    return recovery_of(
        join_uri(uris.out_uri, CHECKPOINTS_FOLDER),
        "pretrain",
        identity,
        every_seconds=60 * config.checkpoint_minutes,
        exporter=exporter,
    )


def _open_stream(dataset: PackedDataset, config: PretrainConfig) -> ImageStream:
    # Validation and test images are judged later; even without labels the encoder must
    # not have seen them.
    return ImageStream(
        dataset,
        batch_size=config.global_batch_size,
        seed=config.seed,
        lanes=config.lanes,
        split="train",
        cache_bytes=config.cache_mib * 2**20 // distributed.world_size(),
    )


def _run_in_workers(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    devices, here = device_count(), workers_here(config.workers)
    if devices and here > devices:
        raise UserError(
            f"each worker needs a GPU of its own, got {here} workers for {devices} "
            f"GPUs: set workers to {devices} or less"
        )
    addresses = ["--dataset-uri", uris.dataset_uri, "--out-uri", uris.out_uri]
    if uris.labels_uri:
        addresses += ["--labels-uri", uris.labels_uri]
    if uris.initial_weights_uri:
        addresses += ["--initial-weights-uri", uris.initial_weights_uri]
    arguments = ["pretrain", *addresses, "--config", json.dumps(config.to_json())]
    launch(arguments, config.workers, config.restarts)
    return cast(
        dict[str, Any], read_json(fetch_artifacts(uris.out_uri, ["metrics.json"]) / "metrics.json")
    )


def _announce_plan(dataset: PackedDataset, config: PretrainConfig) -> None:
    if not distributed.is_main():
        return
    processes = f"{config.workers} processes" if config.workers > 1 else "one process"
    found = dataset.manifest["counts"]["train"]
    groups = count(found["groups"], "group")
    announce(
        "pretrain",
        f"SimCLR on {found['images']} images of {groups}: {config.encoder} "
        f"at {config.image_size} px, {count(config.epochs, 'epoch')} in batches of "
        f"{config.global_batch_size}, {processes} on {pick_device().type}",
    )


def _measure(pretrained: Pretrained, source: ImageStream, config: PretrainConfig) -> dict[str, Any]:
    seconds = sum(record.seconds for record in pretrained.history)
    steps = source.steps_per_epoch * config.epochs
    # Of an epoch that was interrupted, what was computed after it had gone on counts alone.
    timed = sum(record.images_per_second * record.seconds for record in pretrained.history)
    return {
        "epochs": config.epochs,
        "images": source.images,
        "steps": steps,
        "global_batch_size": config.global_batch_size,
        "first_loss_nats": pretrained.first_loss,
        "final_loss_nats": pretrained.history[-1].loss,
        "chance_loss_nats": pretrained.chance_loss,
        "embedding_std": pretrained.embedding_std,
        "effective_rank": pretrained.history[-1].effective_rank,
        "images_per_second": timed / max(seconds, 1e-9),
        "seconds": seconds,
    }


def _publish(
    uris: PretrainUris, config: PretrainConfig, pretrained: Pretrained, metrics: dict[str, Any]
) -> None:
    with new_artifacts("pretrain", uris, config, uris.out_uri) as folder:
        save_encoder(pretrained.encoder, folder)
        write_history(pretrained.history, folder / "history.csv")
        write_steps(pretrained.step_losses, folder / "steps.csv")
        write_events(pretrained.history, pretrained.step_losses, folder / TENSORBOARD_FOLDER)
        draw_curves(pretrained.history, metrics["chance_loss_nats"], folder / "curves.png")
        write_json(folder / "temperature.json", temperature_figure(config.temperature))
        write_json(folder / "metrics.json", metrics)
    announce(
        "pretrain",
        f"loss {metrics['final_loss_nats']:.3f} nats after {count(config.epochs, 'epoch')} "
        f"(no signal: {metrics['chance_loss_nats']:.3f}); encoder in {uris.out_uri}",
    )
