"""Exactly one process trains a run: who does writes so beside the run's checkpoints.

No clock is trusted, neither ours nor the store's. Who holds the claim changes it now and then; who
wants it takes it over once it has stood unchanged for as long as a holder may be silent, by their
own stopwatch. Every change is a conditional write, so of two that try at once one succeeds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.storage import (
    InTheWayError,
    NotFoundError,
    Storage,
    StorageUnavailableError,
    join_uri,
)
from sightline.storage.retries import REAL_CLOCK, Clock
from sightline.telemetry import announce
from sightline.training.preemption import AlreadyRunningError

SILENT_SECONDS = 30.0
_POLLS = 15
_TRIES = 5


class RunClaim:
    """A claim on a run, renewed by a thread while it is held."""

    def __init__(
        self,
        storage: Storage,
        key: str,
        step: str,
        silent_seconds: float = SILENT_SECONDS,
        clock: Clock = REAL_CLOCK,
        run: str = "",
    ) -> None:
        """Name a claim.

        Args:
            storage: Where the run's checkpoints lie.
            key: Under which name the claim is stored.
            step: The step, as lines to the user name it.
            silent_seconds: How long a holder that lives may leave the claim unchanged.
            clock: What waits.
            run: A digest of what makes the run this run; another's that lives is a mistake.
        """
        self.owner = uuid.uuid4().hex
        self._storage = storage
        self._key = key
        self._step = step
        self._run = run
        self._silent_seconds = silent_seconds
        self._clock = clock
        self._content: bytes | None = None
        self._beats = 0
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run-claim", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the run over, because we were silent too long."""
        return self._lost.is_set()

    def take(self) -> None:
        """Take the claim, and keep it until `give_back`.

        Raises:
            AlreadyRunningError: If another process holds it and lives.
            UserError: If that one trains another run.
            InTheWayError: If something else is in the claim's place.
        """
        # Who fails has met another that took it, and finds its claim the next time.
        if not any(self._try_to_take() for _ in range(_TRIES)):
            raise InTheWayError(join_uri(self._storage.uri, self._key))
        self._thread.start()

    def give_back(self) -> bool:
        """Give the claim back, so that the next process need not wait; say whether it was ours."""
        self._ended.set()
        self._thread.join()
        if self.is_lost:
            return False
        try:
            given = self._storage.write_if_unchanged(self._key, b"{}\n", self._content)
            return given or self._read() is None  # one that somebody deleted is nobody else's
        except (StorageUnavailableError, UserError):
            return False  # the next one waits until it has been silent for long enough

    def _try_to_take(self) -> bool:
        found = self._read()
        held = _parse(found)
        if held.get("owner") and not _has_died_here(held):
            self._wait_for_silence(found, held)
        content = self._describe()
        if not self._storage.write_if_unchanged(self._key, content, found):
            return False
        self._content = content
        return True

    def _wait_for_silence(self, found: bytes | None, held: dict[str, Any]) -> None:
        holder = f"process {held.get('pid', '?')} on {held.get('host', '?')}"
        announce(
            self._step,
            f"{holder} has begun this run; looking for up to {self._silent_seconds:.0f} s whether "
            "it still lives",
        )
        for _ in range(_POLLS):
            self._clock.sleep(self._silent_seconds / _POLLS)
            now = self._read()
            if now == found:
                continue
            if _parse(now).get("owner"):
                if held.get("run", self._run) != self._run:
                    raise UserError(
                        f"{holder} trains a run with other settings or data there: choose another "
                        "out_uri, or stop that one first"
                    )
                raise AlreadyRunningError(f"{holder} trains this run already")
            return  # given back meanwhile; the conditional write decides who gets it

    def _renew(self) -> None:
        while not self._ended.wait(self._silent_seconds / 3):
            self._beats += 1
            content = self._describe()
            try:
                if self._storage.write_if_unchanged(self._key, content, self._content):
                    self._content = content
                    continue
                found = self._read()
            except (StorageUnavailableError, UserError):
                continue  # while the store does not answer, nobody can take the run over
            # Where it is gone, nobody holds it: whoever takes a run over writes a claim of its own.
            if found is not None and _parse(found).get("owner") != self.owner:
                self._lost.set()
                return
            if found is None:
                announce(self._step, f"{self._key} was removed: the claim to this run is made anew")
            self._content = found

    def _read(self) -> bytes | None:
        try:
            return self._storage.read_bytes(self._key)
        except NotFoundError:
            return None

    def _describe(self) -> bytes:
        claim = {
            "owner": self.owner,
            "run": self._run,
            "beats": self._beats,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "place": _place(),
            "started": _started(os.getpid()),
        }
        return (json.dumps(claim) + "\n").encode()


def _parse(content: bytes | None) -> dict[str, Any]:
    try:
        claim = json.loads(content or b"{}")
    except ValueError:
        claim = None
    # What nobody can read was written by nobody of ours, but may still be a torn copy of a claim.
    return claim if isinstance(claim, dict) else {"owner": "unreadable"}


def _has_died_here(held: dict[str, Any]) -> bool:
    """Say whether a holder that ran on this machine, in our view of its processes, is gone."""
    if held.get("place") != _place() or not isinstance(held.get("pid"), int):
        return False
    return held.get("started") != _started(held["pid"])


def _place() -> str:
    """Name this boot of this machine and its table of processes; pods have tables of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return ""


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name, in parentheses, may hold anything; a zombie has ended, too.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
