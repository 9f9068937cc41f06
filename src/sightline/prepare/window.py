"""Work on a stream with several threads, in order, with a bounded number of items under way."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

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
    return _map([[each(function)] * threads], items, size_bytes)


def map_twice_in_window(
    fetch: Callable[[T], Any],
    fetchers: int,
    workers: Sequence[Serve],
    items: Iterable[T],
    size_bytes: Callable[[T], int] = lambda _: 0,
) -> Generator[Any, None, None]:
    """Yield what the workers make of `fetch(item)` for every item, as `map_in_window` does.

    Many threads wait for a store, and few workers compute: nobody who waits for a core holds a
    connection.

    Args:
        fetch: As `function` of `map_in_window`.
        fetchers: How many calls of it at once.
        workers: Each runs in a thread of its own: `each(function)`, or what takes items as it does.
        items: As in `map_in_window`.
        size_bytes: As in `map_in_window`.
    """
    return _map([[each(fetch)] * fetchers, workers], items, size_bytes)


class Item:
    """An item under way: what the last stage made of it, or the error that ended it."""

    __slots__ = ("_done", "error", "size_bytes", "value")

    def __init__(self, value: Any, size_bytes: int) -> None:
        self.value = value
        self.size_bytes = size_bytes
        self.error: BaseException | None = None
        # A bare lock: a Future takes a condition and three locks, which all threads contend for.
        self._done = allocate_lock()
        self._done.acquire()

    def end(self) -> None:
        """Let the one who waits for the result have it; once."""
        self._done.release()

    def result(self) -> Any:
        """Wait for the value and return it, or raise the error."""
        with self._done:
            if self.error:
                raise self.error
            return self.value


Items = SimpleQueue[Item | None]
"""Items that wait for a stage; None ends the worker who takes it."""
Serve = Callable[[Items, Callable[[Item], None]], None]
"""Takes items until None, gives each a value or an error, and hands it on."""


def each(function: Callable[[Any], Any]) -> Serve:
    """Return the worker that calls a function of each item's value."""

    def serve(items: Items, hand_on: Callable[[Item], None]) -> None:
        while (item := items.get()) is not None:
            try:
                item.value = function(item.value)
            except BaseException as error:  # raised where the result is awaited
                item.value, item.error = None, error
            hand_on(item)
            del item  # while it waits for the next, nothing keeps this one

    return serve


def _map(
    stages: Sequence[Sequence[Serve]], items: Iterable[T], size_bytes: Callable[[T], int]
) -> Generator[Any, None, None]:
    most = 4 * sum(len(workers) for workers in stages)
    waiting: deque[Item] = deque()
    held = 0
    with _running(stages) as first:
        for value in items:
            size = size_bytes(value)
            while waiting and (len(waiting) >= most or held + size > _MAX_BYTES):
                done = waiting.popleft()
                yield done.result()
                held -= done.size_bytes
            item = Item(value, size)
            waiting.append(item)
            first.put(item)
            held += size
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _running(stages: Sequence[Sequence[Serve]]) -> Iterator[Items]:
    """Start each stage's threads and yield the first's queue; in the end no thread is left."""
    queues: list[Items] = [SimpleQueue() for _ in stages]
    threads: list[list[Thread]] = []
    try:
        for place, workers in enumerate(stages):
            following = queues[place + 1] if place + 1 < len(queues) else None
            hand_on = Item.end if following is None else _handing_to(following)
            threads.append([])
            for serve in workers:
                thread = Thread(target=serve, args=(queues[place], hand_on))
                thread.start()
                threads[-1].append(thread)
        yield queues[0]
    finally:
        # One stage after the other: until its threads have ended they may hand items on.
        for queue, own in zip(queues, threads, strict=False):
            _empty(queue)
            for _ in own:
                queue.put(None)
            for thread in own:
                thread.join()


def _handing_to(following: Items) -> Callable[[Item], None]:
    def hand_on(item: Item) -> None:
        if item.error:
            item.end()
        else:
            following.put(item)

    return hand_on


def _empty(queue: Items) -> None:
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
