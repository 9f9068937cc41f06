"""What a preparation that was killed left behind, removed when the next one starts."""

from __future__ import annotations

import re
import time

from sightline.data.shards import SHARDS_FOLDER
from sightline.errors import UserError
from sightline.storage import open_storage
from sightline.telemetry import announce, count

GRACE_SECONDS = 24 * 3600.0
"""Younger writes may belong to a run that is under way, perhaps on another machine."""

# The only names that are written below a data set store, and the probes of a bucket.
_OURS = re.compile(rf"(?:{SHARDS_FOLDER}|[0-9a-f]{{16}})/[^/]+|\.sightline-probe-[^/]+")


def remove_leftovers(store_uri: str) -> None:
    """Remove old writes to the store that never ended.

    Nothing that can be read is touched. A store that does not let us look or remove is left as it
    is, and that is told: `sightline gc` may run with other rights.
    """
    storage = open_storage(store_uri)
    writes = 0
    try:
        for entry in storage.list_unfinished():
            # A store that knows no time says 0; what may be new is never old enough.
            is_old = 0 < entry.modified < time.time() - GRACE_SECONDS
            if is_old and _OURS.fullmatch(entry.key):
                storage.delete_unfinished(entry)
                writes += 1
    except UserError as error:
        announce("prepare", f"unfinished writes of earlier runs stay: {error}")
    if writes:
        announce("prepare", f"removed {count(writes, 'write')} that never ended from {store_uri}")
