"""The way back: the champion's predecessor takes its place again."""

from __future__ import annotations

from typing import Any

from sightline.errors import UserError
from sightline.promote.champion import ChampionStore
from sightline.promote.config import RollbackConfig, RollbackUris
from sightline.telemetry import announce


def run(uris: RollbackUris, config: RollbackConfig) -> dict[str, Any]:
    """Move the champion back to its predecessor; again, and it moves one further back.

    Returns:
        The versions `from` and `to`.

    Raises:
        UserError: If there is no champion, no predecessor, the predecessor's weights are gone or
            altered, or another run moved the champion at the same moment.
    """
    store = ChampionStore(uris.models_uri, config.task, config.name)
    champion = store.read()
    if champion is None:
        raise UserError(f"no champion under {store.uri}: nothing was promoted under this name")
    predecessor = store.predecessor(champion)
    if predecessor is None:
        raise UserError(
            f"version {champion.version} is the first champion of {store.uri}: there is no "
            "predecessor to move back to"
        )
    if not store.restore(predecessor, champion):
        raise UserError(
            f"another run moved the champion of {store.uri} meanwhile: look, then retry"
        )
    moved = {
        "task": config.task,
        "name": config.name,
        "from": champion.version,
        "to": predecessor.version,
    }
    announce("rollback", f"{config.task}/{config.name}: from {moved['from']} to {moved['to']}")
    return moved
