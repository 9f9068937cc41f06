"""A run on this machine: the compiled YAML, one subprocess a step, nothing left behind."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pipelines.compile import compile_pipeline
from pipelines.plan import Plan
from pipelines.screen import Screen, StepLog
from sightline.pipeline_step import EXIT_USER_ERROR, GOES_ON
from sightline.steps import PIPELINE_STEPS
from sightline_cluster.launch import PIPELINE_PROCESS

_PROCESS_FILE, _CODE_FILE = "step.pid", "step.code"
_KEYBOARD_SECONDS = 3.0  # for a step to end by itself of what was typed
_LAST_SECONDS = 30.0  # for a step to delete its job, though the API answers slowly


class StepFailedError(Exception):
    """A step that did not finish; `is_user_error` says whether the user can mend it."""

    def __init__(self, step: str, message: str, is_user_error: bool) -> None:
        super().__init__(f"step {step} failed: {message}")
        self.is_user_error = is_user_error


def run_locally(plan: Plan) -> None:
    """Run the pipeline with kfp.local, from the very YAML that a cluster gets.

    Raises:
        StepFailedError: If a step failed; the steps after it were not started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sightline-run-") as scratch,
        _stopped_with_us(Path(scratch)),
    ):
        pipeline_yaml = Path(scratch, "simclr_to_yolo.yaml")
        compile_pipeline(pipeline_yaml)
        with steps_environment(Path(scratch)), _quiet_runner() as (screen, log):
            _execute(plan, pipeline_yaml, Path(scratch), screen, log)


def _execute(plan: Plan, pipeline_yaml: Path, scratch: Path, screen: Screen, log: StepLog) -> None:
    from kfp import components, local

    # KFP removes its workspace, whole, after a run: it must be a folder of ours.
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(scratch / "pipeline"),
        workspace_root=str(scratch / "workspace"),
    )
    pipeline = components.load_component_from_file(str(pipeline_yaml))
    try:
        pipeline(**plan.arguments())
    except RuntimeError as error:
        if not log.step:
            raise
        raise explain_failure(log.step, screen.last_lines, failed_exit_code(scratch)) from error


def explain_failure(step: str, last_lines: list[str], code: int | None) -> StepFailedError:
    """Return why a step failed, in its own words, and by its exit code whose it is to mend."""
    mark = f"sightline {step}: "
    own = [line.removeprefix(mark) for line in last_lines if line.startswith(mark)]
    if own:
        return StepFailedError(step, own[-1], is_user_error=code == EXIT_USER_ERROR)
    told = last_lines[-1] if last_lines else "it ended without a word, as a killed process does"
    return StepFailedError(step, told, is_user_error=False)


def failed_exit_code(scratch: Path) -> int | None:
    """Return what the first step that failed ended with; None: its shell was killed, too."""
    with contextlib.suppress(OSError, ValueError):
        return int((scratch / _CODE_FILE).read_text(encoding="utf-8"))
    return None


@contextlib.contextmanager
def steps_environment(scratch: Path) -> Iterator[None]:
    """Make the steps run in this very Python, wherever it lies, and print as they go.

    KFP puts the interpreter's path, unquoted, in place of each `python3` in a step's command,
    also inside the user's own addresses. So `python3` stays as it is, and is found on PATH.
    """
    commands = scratch / "bin"
    commands.mkdir()
    launcher = commands / "python3"
    process, code = (shlex.quote(str(scratch / name)) for name in (_PROCESS_FILE, _CODE_FILE))
    python = f'echo $$ > {process}; exec {shlex.quote(sys.executable)} "$@"'
    # KFP's runner keeps no exit code, so a shell around it does: the first that is a failure's, for
    # after a step that failed the reaper runs.
    launcher.write_text(
        "#!/bin/sh\n"
        f'sh -c {shlex.quote(python)} python3 "$@"\n'
        f"code=$?; [ $code = 0 ] || [ -e {code} ] || echo $code > {code}; exit $code\n",
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    temporary = scratch / "tmp"
    temporary.mkdir()
    search_path = [str(commands), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    changes = {
        "PATH": os.pathsep.join(search_path),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
        PIPELINE_PROCESS: str(os.getpid()),
        GOES_ON: "yes",  # the plan has been compared with what finished before
    }
    before, executable = dict(os.environ), sys.executable
    os.environ.update(changes)
    sys.executable = "python3"
    try:
        yield
    finally:
        sys.executable = executable
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _stopped_with_us(scratch: Path) -> Iterator[None]:
    """Hand an end on to the step that runs, which KFP would leave working, and unwind.

    SIGHUP is a terminal that was closed; a run under nohup ignores it, and goes on doing so. What
    is typed at a terminal reaches the step as well: SIGINT is handed on only to one that goes on.
    """

    def step() -> int | None:
        with contextlib.suppress(OSError, ValueError):
            process = int((scratch / _PROCESS_FILE).read_text(encoding="utf-8"))
            os.kill(process, 0)
            return process
        return None

    def wait_for_step(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while step() is not None and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second one is at once
            wait_for_step(_KEYBOARD_SECONDS)
        if (process := step()) is not None:
            with contextlib.suppress(OSError):
                os.kill(process, number)
        if number == signal.SIGINT:
            wait_for_step(_LAST_SECONDS)
            signal.default_int_handler(number, frame)
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_runner() -> Iterator[tuple[Screen, StepLog]]:
    screen = Screen(sys.stdout)
    log = StepLog([step.name for step in PIPELINE_STEPS], screen)
    root = logging.getLogger()
    root.addFilter(log)
    try:
        with contextlib.redirect_stdout(screen), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield screen, log
    finally:
        root.removeFilter(log)
