"""`sightline <step> …`: the seven steps of the pipeline and three commands around it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sightline import __version__
from sightline.cli import complain, parse_step
from sightline.config import nearest_name
from sightline.errors import UserError
from sightline.machine import started_by_torchrun
from sightline.steps import COMMANDS, OTHER_COMMANDS, PIPELINE_STEPS
from sightline.storage import StorageUnavailableError
from sightline.storage.settings import use_storage_settings
from sightline.telemetry import print_answer
from sightline.training.preemption import (
    EXIT_PREEMPTED,
    AlreadyRunningError,
    PreemptedError,
    WorkerError,
)

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 the user can mend it, 75 asked to end and saved, 130 stopped from the keyboard, 1
    anything else.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print_answer(_help())
        return 0
    if arguments[0] == "--version":
        print_answer(f"sightline {__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        nearest = nearest_name(command, list(COMMANDS))
        hint = f"did you mean {nearest}?" if nearest else "see sightline --help"
        complain("", UserError(f"unknown command {command!r}, {hint}"))
        return EXIT_USER_ERROR
    step = COMMANDS[command]
    try:
        uris, config, storage = parse_step(
            command, step.summary, step.uris_class, step.config_class, arguments[1:]
        )
        use_storage_settings(storage)
        step.execute(uris, config)
    except UserError as error:
        complain(command, error)
        return EXIT_USER_ERROR
    except (StorageUnavailableError, WorkerError) as error:
        complain(command, error)
        return EXIT_FAILURE
    except PreemptedError as error:
        complain(command, error)
        return EXIT_PREEMPTED
    except AlreadyRunningError as error:
        complain(command, error)
    except KeyboardInterrupt:
        # A worker's loss is told by the one that started it, which may start all again.
        if not started_by_torchrun():
            told = "stopped from the keyboard; nothing unfinished was published"
            complain(command, UserError(told))
        return 130
    return 0


def _help() -> str:
    lines = ["usage: sightline COMMAND --help", "", "The pipeline, in its order:"]
    lines += [f"  {step.name:<10} {step.summary}" for step in PIPELINE_STEPS]
    lines += ["", "Around it:"]
    lines += [f"  {step.name:<10} {step.summary}" for step in OTHER_COMMANDS]
    lines += ["", "All of them as one pipeline: python -m pipelines run --help"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
