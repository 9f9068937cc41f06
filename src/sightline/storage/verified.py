"""Reading what is known by its sha256, and again where other bytes came."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sightline.errors import UserError
from sightline.storage.retries import REAL_CLOCK, Clock, PassingError, Retries

T = TypeVar("T")

# Where one answer in ten is damaged, 8 in a row are once in 100 million reads.
_TRIES = 8
# Damage on the way hits another place each time; the same wrong bytes again and again are stored.
_SAME_TRIES = 5
_FIRST_WAIT_SECONDS = 0.05


class AlteredError(UserError):
    """Bytes that are not those that were stored; `what` names them."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


def read_verified(where: str, read: Callable[[], T], clock: Clock = REAL_CLOCK) -> T:
    """Return what `read` returns, and ask again where it finds altered bytes.

    A network or a proxy may have altered them on their way; then they are right another time.

    Args:
        where: What is read, as a message names it.
        read: Reads and compares; raises `AlteredError` where the bytes are others.
        clock: What waits between tries.

    Raises:
        AlteredError: If 5 tries find the same wrong bytes: it is the stored ones then.
        StorageUnavailableError: If 8 tries find different ones, so that nothing is known of
            what is stored.
    """
    found: list[str] = []

    def attempt(_ends: float) -> T:
        try:
            return read()
        except AlteredError as error:
            found.append(str(error))
            if found.count(found[-1]) == _SAME_TRIES:
                raise
            different = " in different ways" if len(set(found)) > 1 else ""
            raise PassingError(
                f"{error.what} came altered{different}: the way to the store, or a disk, damages "
                "bytes, so check the network and the disk",
                kind="wrong bytes",
            ) from None

    return Retries(_TRIES - 1, float("inf"), clock, _FIRST_WAIT_SECONDS).call(
        f"read {where}", attempt
    )


def refuse_altered(what: str, expected: str, found: str, remedy: str) -> None:
    """Compare two sha256.

    Args:
        what: What was read.
        expected: The sha256 it had when it was stored, or the beginning of that.
        found: The sha256 it has.
        remedy: What to do about it.

    Raises:
        AlteredError: If they differ; stored bytes never change, so somebody altered them.
    """
    if not found.startswith(expected):
        raise AlteredError(
            f"{what} was altered: expected sha256 {expected[:12]}…, got {found[:12]}…; {remedy}",
            what,
        )
