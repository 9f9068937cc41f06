"""Seeds from counters: the same draw whatever the number of processes or a restart."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else.

    `derived_seed(seed, epoch, sample, view)` gives each view of each sample its own stream.
    """
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
