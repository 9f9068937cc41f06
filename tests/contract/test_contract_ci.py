"""`.ci/run` with stand-ins for make and for the server beside the checkout."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = """#!/bin/sh
case $2 in MARKS=?*) marked=" ($2)" ;; esac
echo "make $1$marked ${TESTBED_S3_ENDPOINT:-moto}" >> "$NOTES"
[ "$1" != "$FAILING" ]
"""
TESTBED = """#!/bin/sh
echo "testbed $1" >> "$NOTES"
case $1 in
  status) [ "$RUNS" = yes ] ;;
  up) [ "$STARTS" = yes ] || { [ "$STARTS" = late ] && [ "$(grep -c up "$NOTES")" = 2 ]; } ;;
  env) echo 'export TESTBED_S3_ENDPOINT=http://server' ;;
esac
"""
ENVIRONMENT = ["make setup moto", "make check moto"]


@pytest.fixture
def check(tmp_path):
    """Return `check(**facts)`, which runs the script and gives its code and what it called."""
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    version = tmp_path / "checkout" / "src" / "sightline" / "__init__.py"
    version.parent.mkdir(parents=True)
    version.write_text('__version__ = "1"')
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "checkout" / ".ci" / "run")
    _write_command(tmp_path / "bin" / "make", MAKE)

    def run(testbed=True, **facts):
        if testbed:
            _write_command(tmp_path / "shared" / "testbed" / "testbed", TESTBED)
        notes = tmp_path / "notes"
        environment = {name: v for name, v in os.environ.items() if "TESTBED" not in name}
        environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "NOTES": str(notes)}
        environment |= {"TMPDIR": str(tmp_path), **facts}
        script = tmp_path / "checkout" / ".ci" / "run"
        done = subprocess.run([script], env=environment, capture_output=True, check=False)
        assert not list(tmp_path.glob("tmp.*"))
        return done.returncode, notes.read_text().splitlines()

    return run


def _write_command(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_server_beside_the_checkout_is_started_used_and_stopped(check):
    code, notes = check(STARTS="yes")
    assert code == 0
    assert notes[0] == "testbed status"
    assert {"testbed up", *ENVIRONMENT} == set(notes[1:4])
    assert notes[4] == "testbed env"
    assert set(notes[5:9]) == {
        "make test (MARKS=not long) http://server",
        "testbed base-images",
        "make images http://server",
        "testbed load",
    }
    assert notes[9:] == [
        "make scan http://server",
        "make test-cluster http://server",
        "make test (MARKS=long) http://server",
        "testbed down",
    ]


@pytest.mark.parametrize("failing", ["check", "test", "images", "scan", "test-cluster"])
def test_server_is_stopped_when_a_check_fails(check, failing):
    code, notes = check(STARTS="yes", FAILING=failing)
    assert code != 0
    assert notes[-1] == "testbed down"
    assert any(note.startswith(f"make {failing} ") for note in notes)


def test_server_that_ran_before_goes_on(check):
    code, notes = check(RUNS="yes")
    assert code == 0
    assert not {"testbed up", "testbed down"} & set(notes)
    assert notes[-2:] == ["make test-cluster http://server", "make test (MARKS=long) http://server"]


def test_long_tests_are_left_out_where_there_is_no_time_for_them(check):
    code, notes = check(RUNS="yes", SECONDS="1801")
    assert code == 0
    assert notes[-1] == "make test-cluster (MARKS=not long) http://server"


def test_server_that_starts_late_is_started_once_more(check):
    code, notes = check(STARTS="late")
    assert code == 0
    assert "make test-cluster http://server" in notes


@pytest.mark.parametrize(("facts", "expected"), [({"STARTS": "no"}, 1), ({"testbed": False}, 0)])
def test_moto_stands_in_where_there_is_no_server_and_one_that_does_not_start_is_a_failure(
    check, facts, expected
):
    code, notes = check(**facts)
    assert code == expected
    made = [note for note in notes if note.startswith("make")]
    assert made == [*ENVIRONMENT, "make test moto"]
