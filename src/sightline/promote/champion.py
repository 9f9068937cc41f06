"""The champion's record and its predecessors, below `<models_uri>/<task>/<name>/`.

`champion.json` is the only pointer and moves by compare-and-swap. A record that gives way is
kept as `history/<sha256>.json` and named by its successor, so that every move can be undone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sightline.errors import UserError
from sightline.storage import NotFoundError, fetch_artifacts, join_uri, open_storage

CHAMPION_FILE = "champion.json"


@dataclass(frozen=True)
class Champion:
    """A champion's record, and the very bytes it was read from."""

    record: dict[str, Any]
    content: bytes

    @property
    def version(self) -> str:
        """The version that names the model's folder."""
        return str(self.record["version"])


class ChampionStore:
    """One champion's place in the store of models."""

    def __init__(self, models_uri: str, task: str, name: str) -> None:
        self.uri = join_uri(models_uri, task, name)
        self._storage = open_storage(self.uri)

    def read(self) -> Champion | None:
        """Return the present champion, or None if there is none yet.

        Raises:
            UserError: If its record cannot be read.
        """
        try:
            content = self._storage.read_bytes(CHAMPION_FILE)
        except NotFoundError:
            return None
        return self._parse(content, CHAMPION_FILE)

    def model_uri(self, version: str) -> str:
        """Return where a version's model lies; it moves with the store."""
        return join_uri(self.uri, "versions", version)

    def move(self, record: dict[str, Any], champion: Champion | None) -> bool:
        """Make a record the champion in place of `champion`; say whether nobody was faster."""
        previous = None
        if champion:
            previous = {"version": champion.version, "record": self._keep(champion)}
        content = json.dumps({**record, "previous": previous}, indent=2, ensure_ascii=False) + "\n"
        expected = champion.content if champion else None
        return self._storage.write_if_unchanged(CHAMPION_FILE, content.encode(), expected)

    def predecessor(self, champion: Champion) -> Champion | None:
        """Return whom a champion replaced, or None if it was the first.

        Raises:
            UserError: If the predecessor's record or weights are gone or altered.
        """
        predecessor = self.read_predecessor(champion)
        if predecessor is not None:
            self.require_weights(predecessor)
        return predecessor

    def read_predecessor(self, champion: Champion) -> Champion | None:
        """Return the record of whom a champion replaced, without a look at its weights.

        Raises:
            UserError: If the record is gone or altered.
        """
        previous = champion.record.get("previous")
        if not previous:
            return None
        try:
            key = str(previous["record"])
        except (TypeError, KeyError):
            raise UserError(
                f"the champion of {self.uri} names no record of its predecessor, got {previous!r}"
            ) from None
        try:
            return self.read_history(key)
        except NotFoundError:
            raise UserError(
                f"the champion's predecessor cannot be restored: {join_uri(self.uri, key)} is gone"
            ) from None

    def read_history(self, key: str) -> Champion:
        """Return a record that gave way, by its name in the store.

        Raises:
            NotFoundError: If it is gone.
            UserError: If it was altered.
        """
        content = self._storage.read_bytes(key)
        if key != _history_key(content):
            raise UserError(f"{join_uri(self.uri, key)} was altered after it was written")
        return self._parse(content, key)

    def restore(self, predecessor: Champion, champion: Champion) -> bool:
        """Put a predecessor back in place of `champion`; say whether nobody was faster."""
        self._keep(champion)
        return self._storage.write_if_unchanged(
            CHAMPION_FILE, predecessor.content, champion.content
        )

    def require_weights(self, champion: Champion) -> None:
        """Check that every file of a champion's model is there and unaltered.

        Raises:
            UserError: If not; the pointer stays as it is.
        """
        try:
            fetch_artifacts(self.model_uri(champion.version))
        except UserError as error:
            raise UserError(
                f"the weights of version {champion.version} of {self.uri} cannot be used: {error}. "
                "champion.json stays as it is; restore the folder, or move to another champion "
                "with sightline rollback or under another name"
            ) from None

    def _keep(self, champion: Champion) -> str:
        key = _history_key(champion.content)
        self._storage.write_bytes(key, champion.content)
        return key

    def _parse(self, content: bytes, key: str) -> Champion:
        try:
            record = json.loads(content)
            return Champion({**record, "version": str(record["version"])}, content)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{join_uri(self.uri, key)} is no champion's record: {error!r}; restore it from "
                f"{join_uri(self.uri, 'history')}"
            ) from None


def _history_key(content: bytes) -> str:
    return f"history/{hashlib.sha256(content).hexdigest()}.json"
