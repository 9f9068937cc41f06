"""One step in several processes: torchrun started for the user, and its failure made plain.

Imports no torch: whoever waits for torchrun needs neither its seconds nor its memory.

torchrun ends with 1 whatever happened, and prints a page about it. A worker that can name
the reason leaves it in a file (`report_errors`), and `launch` raises it again here. Workers that
end without a reason, because one was killed or does not answer, are started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sightline.errors import UserError
from sightline.machine import usable_cores
from sightline.storage import StorageUnavailableError
from sightline.storage.scratch import ScratchFolder
from sightline.telemetry import count
from sightline.training.preemption import (
    AlreadyRunningError,
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

    A SIGTERM goes on to the workers, which end as they see fit.

    Args:
        arguments: The command and its flags, such as `["pretrain", "--dataset-uri", …]`.
        workers: Number of processes; the cores are divided between them.
        restarts: How often to start them again when they ended and none could say why.

    Raises:
        UserError: If a worker raised one, with its text.
        StorageUnavailableError: The same.
        PreemptedError: The same.
        AlreadyRunningError: The same.
        WorkersLostError: If workers were killed or did not answer, and no restart was left.
        WorkerError: If a worker failed otherwise, after everything it printed.
    """
    if is_spread():
        restarts = 0
    for left in range(restarts, -1, -1):
        code, defect = _run_once(arguments, workers)
        if not code:
            return
        if defect is not None or not left:
            break
        print(
            f"sightline {arguments[0]}: one of {workers} workers was killed or did not answer; "
            f"starting all again ({count(left - 1, 'restart')} left after this)",
            file=sys.stderr,
            flush=True,
        )
    failed = (
        f"{arguments[0]} failed in one of its {workers} processes (torchrun ended with "
        f"{code}): {defect or 'the lines above show the reason'}; nothing unfinished was published"
    )
    raise WorkersLostError(failed) if defect is None else WorkerError(failed)


def _run_once(arguments: Sequence[str], workers: int) -> tuple[int, str | None]:
    """Return torchrun's exit code, and the defect that another try would meet again, if any."""
    here = ["--standalone", "--nproc-per-node", str(workers)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *([] if is_spread() else here),
        *("-m", "sightline", *arguments),
    ]
    with ScratchFolder("workers") as scratch:
        errors = scratch / "errors"
        errors.mkdir()
        for worker in range(workers_here(workers)):
            _spare(errors, worker).write_bytes(bytes(_SPARE_BYTES))
        threads = str(max(1, usable_cores() // workers_here(workers)))
        defaults = {
            "OMP_NUM_THREADS": threads,
            # torchrun kills after 30 s who is still at its last step or saving it.
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SECONDS_TO_END),
        }
        environment = {**defaults, **os.environ, _ERRORS_FOLDER: str(errors)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        forwarder = threading.Thread(target=_forward, args=(process.stderr, errors))
        forwarder.start()
        with _stopped_with_us(process) as was_asked:
            code = process.wait()
        forwarder.join()
        process.stderr.close()
        found = sorted(errors.iterdir())
        for path in found:
            if path.suffix != _DEFECT:
                raise _KINDS[path.suffix[1:]](path.read_text(encoding="utf-8"))
        if was_asked():
            sys.exit(128 + signal.SIGTERM)
        return code, found[0].read_text(encoding="utf-8") if found else None


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
    except Exception as error:
        folder = os.environ.get(_ERRORS_FOLDER)
        if folder and not isinstance(error, WorkersLostError) and not is_lost_peer(error):
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


def _forward(stream: IO[bytes], errors: Path) -> None:
    # Once the reason is known, the rest is torchrun's page about it. Chunks and not lines:
    # a progress line ends without a newline.
    descriptor = stream.fileno()
    while content := os.read(descriptor, 65536):
        if all(path.suffix == _DEFECT for path in errors.iterdir()):
            sys.stderr.buffer.write(content)
            sys.stderr.flush()


@contextmanager
def _stopped_with_us(process: subprocess.Popen[bytes]) -> Iterator[Callable[[], bool]]:
    with noticed_sigterm(process.terminate) as was_asked:
        try:
            yield was_asked
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
