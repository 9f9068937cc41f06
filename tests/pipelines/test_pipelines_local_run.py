import os
import subprocess
import sys

from pipelines.local_run import explain_failure, steps_environment


def test_failure_that_the_user_can_mend_is_told_in_the_steps_own_words():
    error = explain_failure("prepare", ["prepare: 3 images", "sightline prepare: no such folder x"])
    assert str(error) == "step prepare failed: no such folder x"
    assert error.is_user_error


def test_defect_is_told_by_the_last_line_of_its_traceback():
    error = explain_failure("detect", ["Traceback (most recent call last):", "KeyError: 'boxes'"])
    assert str(error) == "step detect failed: KeyError: 'boxes'"
    assert not error.is_user_error


def test_step_that_was_killed_says_so():
    assert "as a killed process does" in str(explain_failure("pretrain", []))


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
