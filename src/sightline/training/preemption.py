"""How a long step ends before its end: asked to by SIGTERM, or because another process has its run.

Imports no torch: the commands know these endings by their exit codes.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start it again later


class PreemptedError(Exception):
    """The process was asked to end and has saved what it had: started again, it goes on there."""


class WorkerError(RuntimeError):
    """A worker ended with a defect, or was killed; it could not say why in one line."""


class WorkersLostError(WorkerError):
    """Processes were killed or did not answer: started again, the training goes on."""


class PeerLostError(WorkersLostError):
    """Another worker ended or does not answer.

    Args:
        silent_seconds: How long it did not answer; None where it has ended.
        place: Where training was, such as `after step 12`, or nothing.
    """

    def __init__(self, silent_seconds: float | None, place: str = "") -> None:
        self.is_silent = silent_seconds is not None
        what = "ended" if silent_seconds is None else f"did not answer for {silent_seconds:g} s"
        self.what = f"{what} {place}".rstrip()
        super().__init__(f"another worker {self.what}")


class AlreadyRunningError(Exception):
    """Another process trains this very run; nothing is wrong, and nothing is left to do here."""


@contextmanager
def noticed_sigterm(then: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Take SIGTERM as a wish that the block may follow when it suits, for as long as it runs.

    SIGHUP, as of a terminal that is gone, counts as SIGTERM, unless it is ignored, as after nohup.
    Once one has come, no other changes anything until the process ends: it does so by itself.

    Args:
        then: Called when one first comes.

    Yields:
        A function that says whether one came. In a thread that is not the main one no
        handler can be set, and it always says no.
    """
    # No Event: what has a lock hangs where a signal comes while another is noted.
    came, times = False, itertools.count()

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        if next(times) == 0 and then is not None:
            then()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            # Not our own handler: Python takes that away before it has ended.
            signal.signal(number, signal.SIG_IGN if came else handler)
