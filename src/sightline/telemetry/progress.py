"""Progress for people: a moving line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")

_LOG_SECONDS = 10.0
_BAR_CELLS = 30
_printing = threading.RLock()  # a stream may print on another


def announce(step: str, text: str) -> None:
    """Print one line of a step's story, in the place of a bar if one is shown."""
    if _on_terminal():
        _write("\r\x1b[J", sys.stderr)
    print_line(f"{step}: {text}")


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once, whole, from whichever thread.

    The work goes on where nobody gets its lines any more, as after `| head` or on a full disk: it
    may be days of training, or a job that would be left to itself.

    Args:
        line: What to print, without its end.
        stream: Where to; by default stdout.
    """
    _write(f"{line}\n", stream or sys.stdout)


def print_answer(text: str) -> None:
    """Print what a command was asked for, such as its help or a manifest.

    Args:
        text: What to print; its last line needs no end.

    Raises:
        SystemExit: If nobody gets it: with 141 and not a word where a pipe was closed, which is
            how other programs end of SIGPIPE; else with 1, and one line says why.
    """
    try:
        if not sys.stdout:  # it was closed before Python began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _put(text if text.endswith("\n") else f"{text}\n", sys.stdout)
    except OSError as error:
        if sys.stdout:
            _turn_to_nowhere(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        print_line(f"sightline: the answer cannot be written ({error.strerror})", sys.stderr)
        raise SystemExit(1) from None


def _write(text: str, stream: TextIO | None) -> None:
    if not stream:  # it was closed before Python began
        return
    with _printing:
        try:
            _put(text, stream)
        except OSError as error:
            _turn_to_nowhere(stream)
            if stream is not sys.stderr:
                why = error.strerror
                told = f"sightline: nobody gets this output any more ({why}); the work goes on"
                print_line(told, sys.stderr)


def _put(text: str, stream: TextIO) -> None:
    # Not by print(), which KFP puts one of its own in the place of.
    try:
        stream.write(text)
    except UnicodeEncodeError:  # an address has letters that ASCII, say, has not
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    stream.flush()


def _on_terminal() -> bool:
    return bool(sys.stderr) and sys.stderr.isatty()


def _turn_to_nowhere(stream: TextIO) -> None:
    # What is in its buffer goes there, too; Python would meet the same error again at its end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def count(number: int, noun: str) -> str:
    """Return a number of things as people say it: `1 epoch`, `2 epochs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield items and show how far it is and how long it still takes.

    Args:
        items: What to go through.
        label: What is being done, such as `prepare: reading images`.
        total: How many items there are, where `items` does not know.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    on_terminal = _on_terminal()
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= (0.2 if on_terminal else _LOG_SECONDS):
            last = now
            _show(label, done, total, now - start, on_terminal)
    if on_terminal and last != start:
        print_line(f"\r\x1b[K{label}: {done} in {format_duration(last - start)}", sys.stderr)


def _show(label: str, done: int, total: int | None, seconds: float, on_terminal: bool) -> None:
    if total:
        left = format_duration(seconds / done * (total - done))
        text = f"{label}: {done}/{total}, about {left} left"
    else:
        text = f"{label}: {done}"
    start, end = ("\r\x1b[K", "") if on_terminal else ("", "\n")
    _write(f"{start}{text}{end}", sys.stderr)


_last_line: float | None = None


def show_step(
    label: str, step: int, steps: int, seconds_left: float, details: str, log_steps: int = 0
) -> None:
    """Show how far a training is: a bar above its numbers on a terminal, a line a while in a log.

    Args:
        label: What is being done, such as `pretrain: epoch 3`.
        step: Steps that are done.
        steps: Steps there are.
        seconds_left: How long the rest will take.
        details: The numbers of this step, as they are shown.
        log_steps: After how many steps a log gets a line; 0: after those that end 10 s after the
            last line or later.
    """
    global _last_line
    on_terminal = _on_terminal()
    now = time.monotonic()
    last_step = step == steps
    if _last_line is None:
        _last_line = now
    if log_steps and not on_terminal:
        due = step % log_steps == 0
    else:
        due = now - _last_line >= (0.2 if on_terminal else _LOG_SECONDS)
    if not due and not (on_terminal and last_step):
        return
    _last_line = now
    where = f"{step}/{steps}, about {format_duration(seconds_left)} left"
    if not on_terminal:
        print_line(f"{label}: {where}, {details}", sys.stderr)
        return
    width = shutil.get_terminal_size().columns - 1
    cells = min(_BAR_CELLS, width - len(label) - len(where) - 2)
    bar = f"{'━' * (step * cells // steps):<{cells}} " if cells > 0 else ""
    # The cursor goes back to the first of the two lines, so that whatever else is printed has it.
    end = "\n" if last_step else "\x1b[A\r"
    lines = f"{f'{label} {bar}{where}'[:width]}\n{details[:width]}"
    _write(f"\r\x1b[J{lines}{end}", sys.stderr)
