"""Work on a stream with several threads, in order, with a bounded number of items under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MAX_BYTES = 256 * 2**20


def map_in_window(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    size_bytes: Callable[[T], int] = lambda _: 0,
) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order of the items.

    No more than four items a thread are under way or waiting to be yielded, nor more than
    256 MiB of them (one item at least), so that memory stays flat however long the stream is.

    Args:
        function: Called in threads; what it raises is raised here.
        items: Read in this thread, as far ahead as the window reaches.
        threads: How many calls at once.
        size_bytes: What an item holds in memory while it is under way.
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    held = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                size = size_bytes(item)
                while waiting and (len(waiting) >= 4 * threads or held + size > _MAX_BYTES):
                    future, released = waiting.popleft()
                    yield future.result()
                    held -= released
                waiting.append((pool.submit(function, item), size))
                held += size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()
