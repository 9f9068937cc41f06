"""Whether a pretraining has been done before, with these very settings and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.errors import UserError
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.storage import finished
from sightline.telemetry import announce


def read_finished(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any] | None:
    """Return the metrics of a finished result of the same data and settings, if there is one."""
    metrics = finished.read_finished(uris, config, uris.out_uri)
    if metrics is None or not _starts_alike(uris, config, metrics):
        return None
    announce("pretrain", f"{uris.out_uri} holds the finished result of these very settings")
    return metrics


def _starts_alike(uris: PretrainUris, config: PretrainConfig, metrics: Mapping[str, Any]) -> bool:
    """Say whether a finished result began with the weights given; true where none can be read."""
    if not uris.initial_weights_uri:
        return True
    from sightline.encoders.files import local_weights

    try:
        with local_weights(uris.initial_weights_uri, config.initial_weights_sha256) as (_, digest):
            return bool(metrics.get("initial_weights_sha256", digest) == digest)
    except UserError:
        return True
