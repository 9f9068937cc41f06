"""Time that passes without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteppingClock:
    """The real clock, but a sleep ends at once and is added to it."""

    def __init__(self, then: Callable[[float], None] = lambda _slept_seconds: None) -> None:
        self.slept: list[float] = []
        self._then = then

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._then(sum(self.slept))
