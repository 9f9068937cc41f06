import io
import logging
import os

import pytest

from pipelines.screen import Screen, StepLog

# As kfp 2.17.0 prints it, copied from a run.
RAW = """\
    [KFP Executor 2026-11-23 21:37:52,357 INFO]: Looking for component `prepare`
    [KFP Executor 2026-11-23 21:37:52,358 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {}
        }
    }
    prepare: 3 images
        indented by the step itself
    [KFP Executor 2026-11-23 21:37:53,359 WARNING]: disk is nearly full
    [KFP Executor 2026-11-23 21:37:53,360 INFO]: Wrote executor output file to /tmp/x.

--------------------------------------------------------------------------------
"""


def test_only_the_steps_own_lines_and_warnings_are_shown():
    terminal = io.StringIO()
    screen = Screen(terminal)
    for start in range(0, len(RAW), 7):  # a pipe gives pieces, not lines
        screen.write(RAW[start : start + 7])
    shown = [
        "prepare: 3 images",
        "    indented by the step itself",
        "[KFP Executor 2026-11-23 21:37:53,359 WARNING]: disk is nearly full",
    ]
    assert terminal.getvalue().splitlines() == shown
    assert screen.last_lines == shown


def test_complaint_of_a_step_is_left_to_whoever_explains_the_failure():
    terminal = io.StringIO()
    screen = Screen(terminal)
    screen.write("    prepare: 3 images\n    sightline prepare: no folder x\n")
    assert terminal.getvalue() == "prepare: 3 images\n"
    assert screen.last_lines == ["prepare: 3 images", "sightline prepare: no folder x"]


@pytest.fixture
def run():
    """Return a screen, its log, its terminal, and `runs(task, line, status)` as KFP's runner."""
    terminal = io.StringIO()
    screen = Screen(terminal)
    log = StepLog(["prepare", "pretrain"], screen)

    def runs(task, line, status):
        level = logging.INFO if status == "SUCCESS" else logging.ERROR
        for record_level, message in (
            (logging.INFO, f"Executing task \x1b[96m'{task}'\x1b[0m"),
            (level, f"Task \x1b[96m'{task}'\x1b[0m finished with status {status}"),
        ):
            log.filter(logging.LogRecord("kfp", record_level, "", 0, message, None, None))
            if record_level == logging.INFO and message.startswith("Executing"):
                screen.write(f"    {line}\n")

    return screen, log, terminal, runs


def test_failure_is_explained_by_the_step_although_the_reaper_spoke_last(run):
    screen, log, terminal, runs = run
    runs("pretrain", "sightline pretrain: the job is gone", "FAILURE")
    runs("reap", "reap: deleted sl-pretrain-r", "SUCCESS")
    assert log.step == "pretrain"
    assert screen.last_lines == ["sightline pretrain: the job is gone"]
    assert terminal.getvalue().splitlines() == ["", "[1/2] pretrain", "reap: deleted sl-pretrain-r"]


def test_failure_of_the_reaper_is_its_own(run):
    screen, log, terminal, runs = run
    runs("pretrain", "pretrain: a loss", "SUCCESS")
    runs("reap", "sightline reap: the cluster's API gives no answer", "FAILURE")
    assert log.step == "reap"
    assert screen.last_lines == ["sightline reap: the cluster's API gives no answer"]
    assert terminal.getvalue().splitlines()[-1] == "pretrain: done in 0 s"


def test_run_goes_on_where_nobody_reads_its_screen(capfd):
    receiving, sending = os.pipe()
    with os.fdopen(sending, "w") as terminal:
        screen = Screen(terminal)
        os.close(receiving)  # as head does
        screen.write("one\ntwo\n")
    assert capfd.readouterr().err.count("nobody gets this output any more (Broken pipe)") == 1
    assert screen.last_lines == ["one", "two"]
