"""Randomness that depends on names and counters alone, and not on what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else.

    `derived_seed(seed, epoch, sample, view)` gives each view of each sample its own stream.
    """
    digest = hashlib.blake2b(_joined(parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derived_uniforms(count: int, *parts: int | str) -> list[float]:
    """Return numbers in [0, 1) that depend on every part and on nothing else.

    The first numbers are the same whatever `count`. A generator of numpy's or torch's costs ten
    times as much to seed as these cost in all.
    """
    digest = hashlib.shake_128(_joined(parts)).digest(8 * count)
    # The upper 53 bits: what a double holds.
    uniforms: list[float] = ((np.frombuffer(digest, "<u8") >> 11) * 2.0**-53).tolist()
    return uniforms


def _joined(parts: tuple[int | str, ...]) -> bytes:
    return "\x1f".join(map(str, parts)).encode()
