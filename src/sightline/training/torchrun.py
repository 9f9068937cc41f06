"""torchrun without its pages: what `launch` starts, and what starts the workers.

`python -m sightline.training.torchrun <folder> <torchrun's arguments>`. The folder gets a note of
each worker that a signal ended. The workers are killed when this process's input ends, as it does
when `launch` wants that, or is killed itself; and those that are left when others have given up on
one that does not answer.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from sightline.telemetry import print_line
from sightline.training.launch import KILLED, SILENT

_DEFECT, _ASKED = 1, 128 + signal.SIGTERM
_TO_KILL = signal.SIGUSR1  # one that torchrun does not handle
# Longer than the 30 s that torchrun gives them where nobody has asked it to end.
_SECONDS_AFTER_SILENCE = 40


def main(errors: str, *arguments: str) -> int:
    """Run torchrun and return its exit code: 0, 1 where a worker failed, 143 when asked to end."""
    logging.disable()  # of each signal it passes on, and of each worker's end
    signal.signal(_TO_KILL, _kill_workers)
    threading.Thread(target=_signal_when_unwanted, args=[Path(errors)], daemon=True).start()
    try:
        run.main(arguments)
    except SignalException:
        return _ASKED
    except ChildFailedError as error:
        _note_killed(error, Path(errors))
        return _DEFECT
    except RendezvousConnectionError:
        told = "torchrun: the place where the machines meet does not answer, as when its pod ended"
        print_line(told, sys.stderr)
        return _DEFECT
    return 0


def _signal_when_unwanted(errors: Path) -> None:
    heard_at = time.monotonic()
    while time.monotonic() - heard_at < _SECONDS_AFTER_SILENCE:
        if not any(errors.glob(f"*{SILENT}")):
            heard_at = time.monotonic()
        if select.select([sys.stdin], [], [], 1)[0] and not os.read(sys.stdin.fileno(), 1):
            break
    os.kill(os.getpid(), _TO_KILL)


def _kill_workers(_number: int, _frame: FrameType | None) -> None:
    # One that hangs would follow nothing less, and torchrun, where it has been asked to end before,
    # would ask them again and wait for them as long as for a save.
    for children in Path("/proc/self/task").glob(f"{os.getpid()}/children"):
        for child in children.read_text(encoding="ascii").split():
            os.kill(int(child), signal.SIGKILL)
    raise SignalException("nobody waits for the workers any more", signal.SIGKILL)


def _note_killed(error: ChildFailedError, errors: Path) -> None:
    first = min(failure.timestamp for failure in error.failures.values())
    for rank, failure in error.failures.items():
        # Those that ended later did so because torchrun asked them to, or killed them.
        by_itself = failure.timestamp == first and failure.exitcode != -signal.SIGTERM
        if failure.exitcode < 0 and by_itself:
            note = f"was killed by {failure.signal_name()}"
            (errors / f"rank-{rank}{KILLED}").write_text(note, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
