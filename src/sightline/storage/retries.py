"""Trying again what failed for a passing reason: jittered waits and one deadline over all of it."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sightline.storage.base import StorageUnavailableError
from sightline.telemetry import print_line

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0
SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")


class PassingError(Exception):
    """A failure that a later try may not meet again; its text is the reason, in a few words."""

    def __init__(self, reason: str, kind: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind or reason
        """What it is counted as: one of a few words, never with a name or a number of the user."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asked to wait."""


class Clock(Protocol):
    """What tells and spends time; tests give one of their own."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class _RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


REAL_CLOCK: Clock = _RealClock()


@dataclass(frozen=True)
class Retries:
    """How often and how long to try.

    The wait before try n + 1 is uniform between 0 and `first_wait_seconds` * 2^(n - 1), at most
    10 s: "full jitter", which keeps many clients of a server that comes back from arriving in step
    (Brooker 2015, "Exponential backoff and jitter"). A server's Retry-After is waited for at the
    least.
    """

    retries: int
    deadline_seconds: float
    clock: Clock = REAL_CLOCK
    first_wait_seconds: float = FIRST_WAIT_SECONDS

    def call(self, what: str, attempt: Callable[[float], T]) -> T:
        """Return what `attempt` returns, trying again after each `PassingError`.

        Args:
            what: What is done, as a message names it.
            attempt: The request together with reading its answer; it gets the clock's time at
                which it should give up.

        Raises:
            StorageUnavailableError: If every try failed, or the next would start past the deadline.
        """
        started = self.clock.monotonic()
        ends = started + self.deadline_seconds
        tries = 0
        while True:
            tries += 1
            try:
                return attempt(ends)
            except PassingError as error:
                failure = error
            longest = min(LONGEST_WAIT_SECONDS, self.first_wait_seconds * 2.0 ** (tries - 1))
            wait = max(failure.retry_after_seconds, random.uniform(0, longest))
            now = self.clock.monotonic()
            if tries > self.retries or now + wait > ends:
                raise StorageUnavailableError(
                    f"cannot {what}: {failure} ({tries} {'try' if tries == 1 else 'tries'} in "
                    f"{now - started:.0f} s); try again when the store answers"
                )
            _NOTES.note(what, failure, wait, now)
            self.clock.sleep(wait)


def retry_counts() -> Mapping[str, int]:
    """Return how often this process tried again, by kind of failure, since it started."""
    return _NOTES.counts()


@contextmanager
def retries_told(step: str) -> Iterator[None]:
    """Say at the end of a step, on stderr, what this process had to try again; nothing if nothing.

    It stays out of the results: how the network was changes no number.
    """
    before = retry_counts()
    try:
        yield
    finally:
        counts = Counter(retry_counts())
        counts.subtract(before)
        counts = +counts
        if counts:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
            total = counts.total()
            print_line(
                f"sightline {step}: {total} {'request was' if total == 1 else 'requests were'} "
                f"tried again ({kinds})",
                sys.stderr,
            )


class _Notes:
    """Counts every retry, and says so on stderr now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._quiet_until = -float("inf")

    def note(self, what: str, failure: PassingError, wait_seconds: float, now: float) -> None:
        with self._lock:
            self._counts[failure.kind] += 1
            total = self._counts.total()
            if now < self._quiet_until:
                return
            self._quiet_until = now + SECONDS_BETWEEN_LINES
        print_line(
            f"sightline: cannot {what} yet: {failure}; trying again in {wait_seconds:.1f} s "
            f"({total} {'retry' if total == 1 else 'retries'} so far)",
            sys.stderr,
        )

    def counts(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)


_NOTES = _Notes()
