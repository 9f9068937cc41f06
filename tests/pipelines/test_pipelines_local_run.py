import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.local_run import (
    _stopped_with_us,
    explain_failure,
    failed_exit_code,
    steps_environment,
)


@pytest.mark.parametrize(("code", "is_user_error"), [(2, True), (1, False), (None, False)])
def test_failure_is_told_in_the_steps_own_words_and_its_users_by_its_code(code, is_user_error):
    lines = ["prepare: 3 images", "sightline prepare: no such folder x"]
    error = explain_failure("prepare", lines, code)
    assert str(error) == "step prepare failed: no such folder x"
    assert error.is_user_error is is_user_error


def test_defect_is_told_by_the_last_line_of_its_traceback():
    lines = ["Traceback (most recent call last):", "KeyError: 'boxes'"]
    error = explain_failure("detect", lines, 1)
    assert str(error) == "step detect failed: KeyError: 'boxes'"
    assert not error.is_user_error


def test_step_that_was_killed_says_so():
    assert "as a killed process does" in str(explain_failure("pretrain", [], 137))


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(2)", 2), ("1/0", 1), ("os.kill(os.getpid(), 9)", 137)]
)
def test_exit_code_of_the_first_step_that_failed_is_kept(tmp_path, end, code):
    with steps_environment(tmp_path):
        for script, expected in [("pass", 0), (end, code), ("pass", 0), ("sys.exit(3)", 3)]:
            shell = ["sh", "-c", f"true && python3 -c 'import os, sys; {script}'"]
            assert subprocess.run(shell, stderr=subprocess.DEVNULL).returncode == expected
    assert failed_exit_code(tmp_path) == code


def test_steps_run_in_this_very_python_although_path_names_another(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "python3").write_text("#!/bin/sh\necho another python\n")
    (other / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{os.environ['PATH']}")
    mine, before = sys.executable, dict(os.environ)
    scratch = tmp_path / "with space"
    scratch.mkdir()
    with steps_environment(scratch):
        done = subprocess.run(
            ["sh", "-c", "python3 -c 'import sys, tempfile; print(sys.executable)'"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == mine
    assert sys.executable == mine
    assert dict(os.environ) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["compile_pipeline", "_execute"])
def test_stopped_run_leaves_no_scratch(number, moment, tmp_path):
    program = (
        "import signal, sys, time\n"
        "from pipelines import local_run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "local_run.compile_pipeline = lambda path: path.write_text('a pipeline')\n"
        "def wait(*given):\n"
        "    print('waiting', file=sys.__stdout__, flush=True)\n"
        "    time.sleep(60)\n"
        f"local_run.{moment} = wait\n"
        "local_run.run_locally(None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with process:
        assert process.stdout.readline() == "waiting\n"
        assert [path.name[:14] for path in tmp_path.iterdir()] == ["sightline-run-"]
        process.send_signal(number)
        assert process.wait() != 0
    assert list(tmp_path.iterdir()) == []


def test_run_under_nohup_goes_on_when_its_terminal_is_closed(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stopped_with_us(tmp_path):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
