"""One step in several processes: torchrun started for the user, and its failure made plain.

torchrun ends with 1 whatever happened, and prints a page about it. A worker that can name
the reason leaves it in a file (`report_errors`), and `launch` raises it again here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from sightline.config import UserError
from sightline.storage import StorageUnavailableError

_ERRORS_FOLDER = "SIGHTLINE_WORKER_ERRORS"
_KINDS: dict[str, type[Exception]] = {"mend": UserError, "later": StorageUnavailableError}


class WorkerError(RuntimeError):
    """A worker ended with a defect, or was killed; it could not say why in one line."""


def launch(arguments: Sequence[str], workers: int) -> None:
    """Run `sightline <arguments>` in several processes of this machine and wait for them.

    Args:
        arguments: The command and its flags, such as `["pretrain", "--dataset-uri", …]`.
        workers: Number of processes; the cores are divided between them.

    Raises:
        UserError: If a worker raised one, with its text.
        StorageUnavailableError: The same.
        WorkerError: If a worker failed otherwise, after everything it printed.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--nproc-per-node", str(workers)),
        *("-m", "sightline", *arguments),
    ]
    with tempfile.TemporaryDirectory(prefix="sightline-workers-") as folder:
        errors = Path(folder)
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, _ERRORS_FOLDER: folder}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        forwarder = threading.Thread(target=_forward, args=(process.stderr, errors))
        forwarder.start()
        with _stopped_with_us(process):
            code = process.wait()
        forwarder.join()
        process.stderr.close()
        found = sorted(errors.iterdir())
        if found:
            raise _KINDS[found[0].suffix[1:]](found[0].read_text(encoding="utf-8"))
    if code:
        raise WorkerError(
            f"{arguments[0]} failed in one of its {workers} processes (torchrun ended with "
            f"{code}): the lines above show the reason; nothing unfinished was published"
        )


@contextmanager
def report_errors() -> Iterator[None]:
    """In a worker: leave an error that is one line where `launch` finds it, and end without it."""
    try:
        yield
    except tuple(_KINDS.values()) as error:
        folder = os.environ.get(_ERRORS_FOLDER)
        if not folder:
            raise
        kind = next(name for name, cls in _KINDS.items() if isinstance(error, cls))
        path = Path(folder, f"rank-{os.environ.get('RANK', '0')}.{kind}")
        partial = Path(folder).with_suffix(f".{path.name}")
        partial.write_text(str(error), encoding="utf-8")
        partial.replace(path)
        sys.exit(2)


def _forward(stream: IO[bytes], errors: Path) -> None:
    # Once the reason is known, the rest is torchrun's page about it. Chunks and not lines:
    # a progress line ends without a newline.
    descriptor = stream.fileno()
    while content := os.read(descriptor, 65536):
        if not any(errors.iterdir()):
            sys.stderr.buffer.write(content)
            sys.stderr.flush()


@contextmanager
def _stopped_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    def stop(signal_number: int, _frame: FrameType | None) -> None:
        process.terminate()
        process.wait()
        sys.exit(128 + signal_number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
