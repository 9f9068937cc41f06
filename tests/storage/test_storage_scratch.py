"""Scratch folders of the living stay, those of the dead go."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import pytest

from sightline.storage.scratch import ScratchFolder, remove_dead_scratch

KILLED = """
import os, signal
from sightline.storage.scratch import ScratchFolder
folder = ScratchFolder("test")
(folder.path / "shard.tar").write_bytes(b"half")
print(folder.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


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


def test_folder_of_a_killed_process_is_removed_by_the_next(place):
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
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
