"""What was read lately or will be needed soon, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class _Entry(Generic[Value]):
    future: Future[Value]
    size_bytes: int
    pins: int = 0


class LoadCache(Generic[Value]):
    """Loads values in threads, and forgets those used longest ago when they exceed a limit.

    A pinned value is loaded and stays. For one thread that asks at a time.
    """

    def __init__(
        self,
        load: Callable[[int], Value],
        size_bytes: Callable[[int], int],
        limit_bytes: int,
        threads: int,
    ) -> None:
        """Take what loads the value of a key, and what tells its size beforehand."""
        self.limit_bytes = limit_bytes
        self._load = load
        self._size_bytes = size_bytes
        self._pinned: dict[int, _Entry[Value]] = {}
        self._idle: OrderedDict[int, _Entry[Value]] = OrderedDict()
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self.pinned_bytes = 0
        self.held_bytes = 0

    def is_pinned(self, key: int) -> bool:
        """Say whether somebody waits for this value."""
        return key in self._pinned

    def loading(self) -> int:
        """Return how many pinned values are not there yet."""
        return sum(not entry.future.done() for entry in self._pinned.values())

    def pin(self, key: int) -> None:
        """Begin to load a value unless it is there, and keep it until it is unpinned."""
        entry = self._pinned.get(key)
        if entry is None:
            entry = self._idle.pop(key, None) or self._begin(key)
            self._pinned[key] = entry
            self.pinned_bytes += entry.size_bytes
        entry.pins += 1

    def get(self, key: int) -> Value:
        """Return a pinned value, when it is there; what loading it raised is raised here."""
        return self._pinned[key].future.result()

    def unpin(self, key: int) -> None:
        """Let a value go when another needs its place."""
        entry = self._pinned[key]
        entry.pins -= 1
        if entry.pins:
            return
        del self._pinned[key]
        self.pinned_bytes -= entry.size_bytes
        self._idle[key] = entry
        # One that failed is asked for again the next time.
        if entry.future.cancel() or (entry.future.done() and entry.future.exception()):
            self._forget(key)
        self._make_room(0)

    def end_threads(self) -> None:
        """Let the threads go if nobody waits for a value; the next load starts new ones."""
        if self._pool is not None and not self._pinned:
            # Not waited for: one that tries a silent store again would hold up whoever stops.
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _begin(self, key: int) -> _Entry[Value]:
        size_bytes = self._size_bytes(key)
        self._make_room(size_bytes)
        self.held_bytes += size_bytes
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "range-reader")
        return _Entry(self._pool.submit(self._load, key), size_bytes)

    def _make_room(self, size_bytes: int) -> None:
        while self._idle and self.held_bytes + size_bytes > self.limit_bytes:
            self._forget(next(iter(self._idle)))

    def _forget(self, key: int) -> None:
        self.held_bytes -= self._idle.pop(key).size_bytes
