"""Pretraining, as its table of contents."""

from __future__ import annotations

import json
from typing import Any, cast

from sightline.config import UserError
from sightline.data import PackedDataset, open_dataset
from sightline.data.stream import ImageStream
from sightline.encoders import save_encoder
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.pretrain.curves import draw_curves, write_history
from sightline.pretrain.temperature import temperature_figure
from sightline.pretrain.train import Pretrained, pretrain_from
from sightline.storage import fetch_artifacts, new_artifacts, require_new
from sightline.storage.artifacts import publish_skipped, read_json, write_json
from sightline.telemetry import announce, count
from sightline.training import distributed
from sightline.training.devices import device_count, pick_device, seed_everything
from sightline.training.launch import launch, report_errors


def run(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    """Learn an encoder from a packed data set's train split and publish it.

    With several workers the step starts itself again under torchrun, and rank 0 publishes.

    Returns:
        The step's metrics.

    Raises:
        UserError: If the data set holds fewer images than a batch, the loss is no longer a
            number, or `out_uri` holds a finished result.
    """
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no images were given, so there is nothing to pretrain on"
        announce("pretrain", reason)
        return publish_skipped("pretrain", uris, config, uris.out_uri, reason)
    if config.workers > 1 and not distributed.started_by_torchrun():
        return _run_in_workers(uris, config)
    with report_errors(), distributed.process_group(pick_device()):
        seed_everything(config.seed)
        dataset = open_dataset(uris.dataset_uri)
        _announce_plan(dataset, config)
        source = _open_stream(dataset, config)
        pretrained = pretrain_from(source, config)
        metrics = _measure(pretrained, source, config)
        if distributed.is_main():
            _publish(uris, config, pretrained, metrics)
    return metrics


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
    devices = device_count()
    if devices and config.workers > devices:
        raise UserError(
            f"each worker needs a GPU of its own, got {config.workers} workers for {devices} "
            f"GPUs: set workers to {devices} or less"
        )
    addresses = ("--dataset-uri", uris.dataset_uri, "--out-uri", uris.out_uri)
    launch(["pretrain", *addresses, "--config", json.dumps(config.to_json())], config.workers)
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
    return {
        "epochs": config.epochs,
        "images": source.images,
        "steps": steps,
        "global_batch_size": config.global_batch_size,
        "first_loss_nats": pretrained.first_loss,
        "final_loss_nats": pretrained.history[-1].loss,
        "chance_loss_nats": pretrained.chance_loss,
        "embedding_std": pretrained.embedding_std,
        "images_per_second": steps * config.global_batch_size / max(seconds, 1e-9),
        "seconds": seconds,
    }


def _publish(
    uris: PretrainUris, config: PretrainConfig, pretrained: Pretrained, metrics: dict[str, Any]
) -> None:
    with new_artifacts("pretrain", uris, config, uris.out_uri) as folder:
        save_encoder(pretrained.encoder, folder)
        write_history(pretrained.history, folder / "history.csv")
        draw_curves(pretrained.history, metrics["chance_loss_nats"], folder / "curves.png")
        write_json(folder / "temperature.json", temperature_figure(config.temperature))
        write_json(folder / "metrics.json", metrics)
    announce(
        "pretrain",
        f"loss {metrics['final_loss_nats']:.3f} nats after {count(config.epochs, 'epoch')} "
        f"(no signal: {metrics['chance_loss_nats']:.3f}); encoder in {uris.out_uri}",
    )
