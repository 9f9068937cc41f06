"""What one process of a pretraining does: open the data, train, publish."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from sightline.data import PackedDataset, open_dataset
from sightline.data.stream import ImageStream
from sightline.encoders import save_encoder
from sightline.encoders.files import local_weights
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.pretrain.curves import draw_curves, write_history, write_steps
from sightline.pretrain.finished import read_finished
from sightline.pretrain.temperature import temperature_figure
from sightline.pretrain.train import Pretrained, pretrain_from
from sightline.pretrain.watch import write_events
from sightline.storage import join_uri, new_artifacts
from sightline.storage.artifacts import write_json
from sightline.storage.retries import retry_counts
from sightline.telemetry import announce, count
from sightline.telemetry.exporter import Exporter
from sightline.training import distributed
from sightline.training.devices import pick_device, seed_everything
from sightline.training.recovery import Recovery, recovery_of

CHECKPOINTS_FOLDER = "checkpoints"
"""Where a run's checkpoints lie below `out_uri`, until its result is published."""
TENSORBOARD_FOLDER = "tensorboard"
"""Where a result has its event file."""


def train_and_publish(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    """Train with the other processes, if there are any; rank 0 publishes.

    Returns:
        The step's metrics.
    """
    device = pick_device()
    exporter = Exporter(retry_counts)
    with distributed.process_group(device, config.stall_minutes):
        seed_everything(config.seed)
        dataset = open_dataset(uris.dataset_uri)
        _announce_plan(dataset, config)
        source = _open_stream(dataset, config)
        identity = {**config.what_counts(config.to_json()), "dataset": dataset.digest}
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
            finished = distributed.from_main(lambda: read_finished(uris, config))
            if finished is not None:
                recovery.is_over = True
                return finished
            probe = None
            if uris.labels_uri and config.knn_epochs and distributed.is_main():
                # It brings scikit-learn, whose import takes seconds.
                from sightline.pretrain.probe import NeighbourProbe

                probe = NeighbourProbe(open_dataset(uris.labels_uri))
            pretrained = pretrain_from(source, config, recovery, exporter, weights, probe)
            metrics = _measure(pretrained, source, config)
            if weights is not None:
                metrics["initial_weights_sha256"] = identity["initial_weights"]
            distributed.from_main(lambda: _publish(uris, config, pretrained, metrics))
            recovery.is_over = True
    return metrics


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
