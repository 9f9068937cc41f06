"""One step in several processes: torchrun started for the user, and its failure made plain.

Imports no torch: whoever waits for torchrun needs neither its seconds nor its memory.

torchrun ends with 1 whatever happened. A worker that can name the reason leaves it in a file
(`report_errors`), and `launch` raises it again here. Workers that end because one was killed or
does not answer are started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sightline.errors import UserError
from sightline.machine import usable_cores
from sightline.storage import StorageUnavailableError
from sightline.storage.scratch import ScratchFolder
from sightline.telemetry import count, print_line
from sightline.training.preemption import (
    AlreadyRunningError,
    PeerLostError,
    PreemptedError,
    WorkerError,
    WorkersLostError,
    noticed_sigterm,
)

_ERRORS_FOLDER = "SIGHTLINE_WORKER_ERRORS"
_KINDS: dict[str, type[Exception]] = {
    "mend": UserError,
    "later": StorageUnavailableError,
    "preempted": PreemptedError,
    "running": AlreadyRunningError,
}
_DEFECT = ".defect"
# How the files are called that tell of the loss of a worker, or of a process that helps one.
KILLED, SILENT, _LOST, _ENDED = ".killed", ".silent", ".lost", ".ended"
_STALL_ADVICE = (
    "if it happens again, look whether its machine is out of memory, cores or disk, or raise "
    "stall_minutes"
)
_SPARE_BYTES = 16_384
_SECONDS_TO_END = 600
# Of the training operator, and of its successor.
_MEETING_PLACES = ("PET_RDZV_ENDPOINT", "PET_MASTER_ADDR")


def is_spread() -> bool:
    """Say whether torchruns of several machines are to meet, each of them started by others."""
    return any(name in os.environ for name in _MEETING_PLACES)


def workers_here(workers: int) -> int:
    """Return how many of a training's processes this machine, or pod, starts."""
    if not is_spread():
        return workers
    here = os.environ.get("PET_NPROC_PER_NODE", "1")
    return int(here) if here.isdecimal() else workers


def launch(arguments: Sequence[str], workers: int, restarts: int = 0) -> None:
    """Run `sightline <arguments>` in several processes and wait for those of this machine.

    All of them run here, unless the environment names a place where torchruns of several machines
    meet (`PET_RDZV_ENDPOINT` or `PET_MASTER_ADDR`, as the training operators set them). Then
    nothing is started again here: whoever started the machines does that, all of them together.

    A SIGTERM, or SIGHUP, goes on to the workers as SIGTERM, and they end as they see fit. When this
    process is killed, or stopped from the keyboard, they are killed.

    Args:
        arguments: The command and its flags, such as `["pretrain", "--dataset-uri", …]`.
        workers: Number of processes; the cores are divided between them.
        restarts: How often to start them again when one was lost, or none could say why.

    Raises:
        UserError: If a worker raised one, with its text.
        StorageUnavailableError: The same.
        PreemptedError: The same, or if a SIGTERM came before a worker could heed it.
        AlreadyRunningError: The same.
        WorkersLostError: If workers were killed or did not answer, and no restart was left.
        WorkerError: If a worker failed otherwise, after everything it printed.
    """
    for left in range(0 if is_spread() else restarts, -1, -1):
        try:
            _run_once(arguments, workers)
        except WorkersLostError as error:
            if not left:
                raise WorkersLostError(f"{error}; nothing unfinished was published") from None
            print_line(
                f"sightline {arguments[0]}: {error}; starting all again "
                f"({count(left - 1, 'restart')} left after this)",
                sys.stderr,
            )
        else:
            return


def _run_once(arguments: Sequence[str], workers: int) -> None:
    with ScratchFolder("workers") as scratch:
        errors = scratch / "errors"
        errors.mkdir()
        for worker in range(workers_here(workers)):
            _spare(errors, worker).write_bytes(bytes(_SPARE_BYTES))
        here = ["--standalone", "--nproc-per-node", str(workers)]
        command = [
            *(sys.executable, "-m", "sightline.training.torchrun", str(errors)),
            *([] if is_spread() else here),
            *("-m", "sightline", *arguments),
        ]
        threads = str(max(1, usable_cores() // workers_here(workers)))
        defaults = {
            "OMP_NUM_THREADS": threads,
            # torchrun kills after 30 s who is still at its last step or saving it.
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SECONDS_TO_END),
            # Not a page of addresses in torch's C++ for each connection that another's end cuts.
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        environment = {**defaults, **os.environ, _ERRORS_FOLDER: str(errors)}
        code, was_asked = _wait_for(command, environment)
        told = [(path, path.read_text(encoding="utf-8")) for path in sorted(errors.iterdir())]
    if not code:
        return
    for path, text in told:
        if path.suffix[1:] in _KINDS:
            raise _KINDS[path.suffix[1:]](text)
    if was_asked:
        loss = _loss(told, workers)
        raise PreemptedError(
            f"asked to end, and ended without another checkpoint{f', for {loss}' if loss else ''}: "
            "the same command goes on from the last checkpoint, or begins where there is none"
        )
    failed = (
        f"{arguments[0]} failed in one of its {workers} processes (torchrun ended with {code}): "
    )
    for path, text in told:
        if path.suffix == _DEFECT:
            raise WorkerError(f"{failed}{text}; nothing unfinished was published")
    raise WorkersLostError(_loss(told, workers) or f"{failed}the lines above show the reason")


def _wait_for(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bool]:
    """Return the exit code of a command, and whether a SIGTERM came; it gets that, too."""
    # In a session of its own: what is sent to our whole process group comes through us, once.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    with noticed_sigterm(process.terminate) as was_asked:
        try:
            code = process.wait()
        finally:
            process.stdin.close()
            process.wait()
    return code, was_asked()


def _loss(told: Sequence[tuple[Path, str]], workers: int) -> str | None:
    """Say which worker was lost, as far as those of this machine and torchrun know."""
    texts: dict[str, dict[int, str]] = {}
    for path, text in told:
        texts.setdefault(path.suffix, {})[int(path.stem.removeprefix("rank-"))] = text
    for rank, text in texts.get(KILLED, {}).items():
        hint = ", most often for lack of memory" if "SIGKILL" in text else ""
        return f"the worker of rank {rank} {text}{hint}"
    for text in texts.get(_LOST, {}).values():
        return text
    silent, ended = texts.get(SILENT, {}), texts.get(_ENDED, {})
    for text in [*silent.values(), *ended.values()]:
        advice = f" ({_STALL_ADVICE})" if silent else ""
        return f"{_lost_worker(set(silent), set(ended), workers)} {text}{advice}"
    return None


def _lost_worker(waited: set[int], closed: set[int], workers: int) -> str:
    # One that hangs for good says nothing; one that was only late meets the others' end.
    others = set(range(workers)) - waited
    for lost in (others - closed, others):
        if len(lost) == 1:
            return f"the worker of rank {lost.pop()}"
    return "another worker" if is_spread() else f"one of {workers} workers"


@contextmanager
def report_errors(is_lost_peer: Callable[[BaseException], bool]) -> Iterator[None]:
    """In a worker: leave an error that is one line where `launch` finds it, and end without it.

    An error that is a defect of the worker's own, and not the end of another worker or of a
    process that helps this one, leaves a mark: trying again would meet it again.

    Args:
        is_lost_peer: Says whether an error means that another worker ended or does not answer.
    """
    try:
        yield
    except tuple(_KINDS.values()) as error:
        folder = os.environ.get(_ERRORS_FOLDER)
        if not folder:
            raise
        kind = next(name for name, cls in _KINDS.items() if isinstance(error, cls))
        _leave(folder, f".{kind}", str(error))
        sys.exit(2)
    except WorkersLostError as error:
        folder = os.environ.get(_ERRORS_FOLDER)
        if not folder:
            raise
        if isinstance(error, PeerLostError):
            _leave(folder, SILENT if error.is_silent else _ENDED, error.what)
        else:
            _leave(folder, _LOST, str(error))
        sys.exit(1)
    except Exception as error:
        folder = os.environ.get(_ERRORS_FOLDER)
        if folder and not is_lost_peer(error):
            _leave(folder, _DEFECT, " ".join(f"{type(error).__name__}: {error}".split()))
        raise


def _leave(folder: str, suffix: str, text: str) -> None:
    path = Path(folder, f"rank-{os.environ.get('RANK', '0')}{suffix}")
    content = text.encode()[:_SPARE_BYTES]
    partial = _spare(Path(folder), int(os.environ.get("LOCAL_RANK", "0")))
    with partial.open("r+b") as file:
        file.write(content)
        file.truncate()
    partial.replace(path)


def _spare(errors: Path, worker: int) -> Path:
    # There before it is needed: that the disk is full is what some errors have to say.
    return errors.with_suffix(f".spare-{worker}")
