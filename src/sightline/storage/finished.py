"""What a finished result says of how it was made, for a run that goes on after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sightline.config import StepConfig, StepUris
from sightline.storage.artifacts import fetch_artifacts, read_json
from sightline.storage.base import NotFoundError


def read_finished(uris: StepUris, config: StepConfig, out_uri: str) -> dict[str, Any] | None:
    """Return the metrics of a finished result of these very addresses and settings, if it is there.

    Settings that change no result may differ.

    Raises:
        UserError: If a file of it is not what was published.
    """
    try:
        made = made_with(out_uri)
        mine, theirs = (config.what_counts(found) for found in (config.to_json(), made["settings"]))
        if made["uris"] != uris.to_json() or mine != theirs:
            return None
        metrics = read_json(fetch_artifacts(out_uri, ["metrics.json"]) / "metrics.json")
    except NotFoundError:
        return None
    return cast(dict[str, Any], metrics)


def made_with(out_uri: str) -> Mapping[str, Any]:
    """Return the `uris` and `settings` that a finished result was made with.

    Raises:
        NotFoundError: If no step has finished there.
        UserError: If a file of it is not what was published.
    """
    folder = fetch_artifacts(out_uri, ["config.json"])
    return cast(Mapping[str, Any], read_json(folder / "config.json"))
