"""A worker's entry point: runs the step, and ends so that the training operator does what is right.

`python -m sightline_cluster.worker <step> <its flags>`. With restartPolicy ExitCode the operator
starts a pod again for codes from 128 on, without end, and gives the job up for those below. So:

0    finished
2    the user can mend it; starting again would meet it again
143  asked to end and saved, or the store, a node or another worker went away: start again
1    a defect, with its traceback in the log

What was the matter stands in the container's termination message, too.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sightline.cli import complain, parse_step
from sightline.errors import UserError
from sightline.steps import COMMANDS
from sightline.storage import StorageUnavailableError
from sightline.storage.settings import use_storage_settings
from sightline.training.launch import is_spread, launch
from sightline.training.preemption import AlreadyRunningError, PreemptedError, WorkersLostError

FINISHED, DEFECT, USER_ERROR, START_AGAIN = 0, 1, 2, 143
_MESSAGE_FILE = "SIGHTLINE_TERMINATION_LOG"
_LONGEST_MESSAGE = 4000  # the kubelet keeps 4096 bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step and return the code for the operator."""
    # By default it would end without a word.
    signal.signal(signal.SIGTERM, _end_at_once)
    arguments = list(sys.argv[1:] if argv is None else argv)
    step = arguments[0] if arguments else ""
    code, message = _run(step, arguments[1:])
    if message:
        _leave_message(f"{step}: {message}")
    return code


def _run(step: str, flags: Sequence[str]) -> tuple[int, str]:
    try:
        if step not in COMMANDS:
            raise UserError(f"a worker runs one of {', '.join(COMMANDS)}, got {step!r}")
        command = COMMANDS[step]
        uris, config, storage = parse_step(
            step, command.summary, command.uris_class, command.config_class, flags
        )
        use_storage_settings(storage)
        workers = getattr(config, "workers", 1)
        if workers > 1 and is_spread():
            launch([step, *flags], workers)
        else:
            command.execute(uris, config)
    except UserError as error:
        complain(step, error)
        return USER_ERROR, str(error)
    except (
        AlreadyRunningError,  # a pod of a node that was lost may live on for a while
        PreemptedError,
        StorageUnavailableError,
        WorkersLostError,
    ) as error:
        complain(step, error)
        return START_AGAIN, str(error)
    except SystemExit as error:
        # Ours, or another worker's end that rank 0 could not go on with.
        asked = error.code == START_AGAIN
        message = (
            "asked to end; it goes on when it is started again" if asked else "another worker ended"
        )
        complain(step, RuntimeError(message))
        return START_AGAIN, message
    except Exception as error:
        traceback.print_exc()
        return DEFECT, " ".join(f"{type(error).__name__}: {error}".split())
    return FINISHED, ""


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(START_AGAIN)


def _leave_message(message: str) -> None:
    target = Path(os.environ.get(_MESSAGE_FILE, "/dev/termination-log"))
    try:
        target.write_bytes(message.encode()[:_LONGEST_MESSAGE])
    except OSError:
        return  # not in a pod; the line above has said it


if __name__ == "__main__":
    sys.exit(main())
