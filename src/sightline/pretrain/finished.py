"""Whether a pretraining has been done before, with these very settings and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sightline.errors import UserError
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.storage import NotFoundError, fetch_artifacts
from sightline.storage.artifacts import read_json
from sightline.telemetry import announce


def read_finished(uris: PretrainUris, config: PretrainConfig) -> dict[str, Any] | None:
    """Return the metrics of a finished result of the same data and settings, if there is one."""
    try:
        folder = fetch_artifacts(uris.out_uri, ["config.json", "metrics.json"])
    except NotFoundError:
        return None
    present = read_json(folder / "config.json")
    same = present["uris"] == uris.to_json() and what_counts(
        present["settings"], config
    ) == what_counts(config.to_json(), config)
    if not same or not _starts_alike(uris, config, folder):
        return None
    announce("pretrain", f"{uris.out_uri} holds the finished result of these very settings")
    return cast(dict[str, Any], read_json(folder / "metrics.json"))


def _starts_alike(uris: PretrainUris, config: PretrainConfig, finished: Path) -> bool:
    """Say whether a finished result began with the weights given; true where none can be read."""
    if not uris.initial_weights_uri:
        return True
    from sightline.encoders.files import local_weights

    try:
        with local_weights(uris.initial_weights_uri, config.initial_weights_sha256) as (_, digest):
            metrics = read_json(finished / "metrics.json")
            return bool(metrics.get("initial_weights_sha256", digest) == digest)
    except UserError:
        return True


def what_counts(settings: Mapping[str, Any], config: PretrainConfig) -> dict[str, Any]:
    """Return the settings that a result depends on."""
    left_out = set(config.changes_no_result)
    if config.batch_norm == "per_worker":  # of how many images each worker sees the statistics
        left_out.remove("workers")
    return {name: v for name, v in settings.items() if name not in left_out}
