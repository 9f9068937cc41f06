"""Scratch folders of the living stay, those of the dead go."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import pytest

from sightline.storage.scratch import ScratchFolder, remove_dead_scratch

WRITES = """
import os, signal
from sightline.storage.scratch import ScratchFolder, scratch_until_exit
kept = ScratchFolder("test") if {kind!r} == "block" else scratch_until_exit("test")
folder = getattr(kept, "path", kept)
(folder / "shard.tar").write_bytes(b"half")
print(folder, flush=True)
"""
KILLED = WRITES + "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_goes_with_its_block(place):
    with ScratchFolder("test") as folder:
        (folder / "shard.tar").write_bytes(b"half")
        assert folder.parent == place
    assert not list(place.iterdir())


def test_folder_of_a_process_goes_with_it_and_not_with_its_children(place):
    children = "if os.fork() == 0: sys.exit()\nos.wait()\nassert folder.exists()"
    script = WRITES.format(kind="exit").replace("import os", "import os, sys") + children
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not list(place.iterdir())


@pytest.mark.parametrize("kind", ["block", "exit"])
def test_folder_of_a_killed_process_is_removed_by_the_next(kind, place):
    script = KILLED.format(kind=kind)
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    assert [str(path) for path in place.iterdir()] == [done.stdout.strip()]
    assert remove_dead_scratch() == 1
    assert not list(place.iterdir())


def test_folder_of_a_living_process_stays():
    with ScratchFolder("test") as folder:
        (folder / "shard.tar").write_bytes(b"half")
        assert remove_dead_scratch() == 0
        assert (folder / "shard.tar").exists()


def test_what_is_not_a_scratch_folder_of_ours_stays(place, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere")
    (target / "lock").touch()
    (place / "sightline-link").symlink_to(target)
    (place / "sightline-without-a-lock").mkdir()
    (place / "sightline-file").touch()
    assert remove_dead_scratch() == 0
    assert len(list(place.iterdir())) == 3
    assert (target / "lock").exists()
