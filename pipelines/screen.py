"""What a person sees of a local run: the steps' own lines, and where the run is.

KFP's runner and executor write much of their own around a step's output: colours, rulers,
paths of temporary files, the whole input as JSON. Their warnings and errors stay.
"""

import io
import logging
import re
import time
from collections.abc import Sequence
from typing import TextIO

from sightline.telemetry import format_duration, print_line

_EXECUTOR_NOTE = re.compile(r"\[KFP Executor \S+ \S+ (DEBUG|INFO)\]: ")
_RUNNER_INDENT = "    "
_COMPLAINT = re.compile(r"sightline [a-z]+: ")


class Screen(io.TextIOBase):
    """A stdout for the time of a local run that lets only the steps' own lines through.

    A step's complaint is held back: whoever runs the pipeline tells it, once.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._partial = ""
        self._inside_executor_input = False
        self.last_lines: list[str] = []
        """The last step's last lines, newest last; what a failure is explained with."""
        self.keeps_lines = True
        """Whether lines are kept; not those of what follows a step that has failed."""

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Show whole lines; the rest waits for its end."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._show(line)
        return len(text)

    def flush(self) -> None:
        """Pass what was shown on to the terminal."""
        self._terminal.flush()

    def say(self, line: str) -> None:
        """Show a line of our own."""
        print_line(line, self._terminal)

    def _show(self, raw: str) -> None:
        if raw and set(raw) == {"-"}:
            return
        line = raw.removeprefix(_RUNNER_INDENT).rstrip()
        if self._inside_executor_input:
            self._inside_executor_input = line != "}"
            return
        if _EXECUTOR_NOTE.match(line):
            self._inside_executor_input = "Got executor_input:" in line
            return
        if not line:
            return
        if self.keeps_lines:
            self.last_lines = [*self.last_lines[-49:], line]
        if not _COMPLAINT.match(line):
            self.say(line)


class StepLog(logging.Filter):
    """Turns the runner's log records into one line where a step starts and one where it ends."""

    def __init__(self, steps: Sequence[str], screen: Screen) -> None:
        super().__init__()
        self._steps = steps
        self._screen = screen
        self._begun = 0
        self._has_failed = False
        self._start = 0.0
        self.step = ""
        """The step that runs, ran last, or failed; or what follows the steps."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let warnings through; other records become our lines or vanish."""
        message = record.getMessage()
        if record.levelno > logging.INFO:
            self._has_failed = self._has_failed or "finished with status" in message
            return "finished with status" not in message  # the caller explains the failure
        if found := re.search(r"Executing task .*?'([a-z]+)", message):
            self._begin(found[1])
        elif self._is_in_step and "finished with status" in message and "Task" in message:
            took = format_duration(time.monotonic() - self._start)
            self._screen.say(f"{self.step}: done in {took}")
        return False

    @property
    def _is_in_step(self) -> bool:
        return self.step in self._steps and not self._has_failed

    def _begin(self, step: str) -> None:
        if self._has_failed:
            self._screen.keeps_lines = False
            return
        self.step, self._start = step, time.monotonic()
        self._screen.last_lines = []
        if step in self._steps:
            self._begun += 1
            self._screen.say(f"\n[{self._begun}/{len(self._steps)}] {step}")
