"""Pretraining, as its table of contents.

Whoever starts several workers only waits for them, so nothing here imports torch.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any, cast

from sightline.machine import started_by_torchrun
from sightline.pretrain.config import PretrainConfig, PretrainUris, require_given_weights
from sightline.pretrain.finished import read_finished
from sightline.storage import fetch_artifacts, require_new
from sightline.storage.artifacts import publish_skipped, read_json
from sightline.storage.begun import step_begun
from sightline.telemetry import announce
from sightline.training.launch import launch, report_errors


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
        stack.enter_context(report_errors(_is_lost_peer))
        if started_by_torchrun():  # an error of it, too, is to be told where the launcher finds it
            stack.enter_context(step_begun("pretrain", uris))
        return _run(uris, config)


def _run(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
    require_given_weights(uris.initial_weights_uri, config)
    finished = read_finished(uris, config)
    if finished is not None:
        return finished
    require_new(uris.out_uri)
    if not uris.dataset_uri:
        reason = "no images were given, so there is nothing to pretrain on"
        announce("pretrain", reason)
        return publish_skipped("pretrain", uris, config, uris.out_uri, reason)
    if config.workers > 1 and not started_by_torchrun():
        return _run_in_workers(uris, config)
    from sightline.pretrain.session import train_and_publish

    return train_and_publish(uris, config)


def _is_lost_peer(error: BaseException) -> bool:
    from sightline.training.distributed import is_lost_peer

    return is_lost_peer(error)


def _run_in_workers(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any]:
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
