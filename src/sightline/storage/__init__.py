"""One small protocol over every place that holds bytes, and the way results are published."""

from sightline.storage.artifacts import fetch_artifacts, new_artifacts, require_new
from sightline.storage.base import (
    Entry,
    InTheWayError,
    NotFoundError,
    Storage,
    StorageUnavailableError,
    UnreadableError,
    join_uri,
    open_storage,
)

__all__ = [
    "Entry",
    "InTheWayError",
    "NotFoundError",
    "Storage",
    "StorageUnavailableError",
    "UnreadableError",
    "fetch_artifacts",
    "join_uri",
    "new_artifacts",
    "open_storage",
    "require_new",
]
