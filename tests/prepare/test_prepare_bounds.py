"""What keeps a preparation within its bounds: an early refusal, memory, decoders at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sightline.prepare.run as steps
from sightline.errors import UserError
from sightline.prepare import intake
from sightline.prepare.config import PrepareConfig, PrepareUris


def test_store_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(steps, "find_folders", lambda *_: pytest.fail("the work has begun"))
    uris = PrepareUris(
        images_uri=str(tmp_path), store_uri=str(tmp_path / "file/s"), out_uri=str(tmp_path / "out")
    )
    with pytest.raises(UserError, match=r"cannot write below .*file/s"):
        steps.run(uris, PrepareConfig())


def test_thumbnails_that_were_read_do_not_stay_in_memory(catalogue):
    for file in range(4000):
        catalogue.add_picture(
            {"file": file, "frame": 0, "kind": "images", "name": f"{file}"},
            bytes([file % 256]) * 1024,
        )
    thumbnails = catalogue.thumbnails_of("TRUE")
    for start in range(0, 4000, 500):
        assert thumbnails[start + 7, 3] == (start + 7) % 256
        assert thumbnails[start : start + 500].shape == (500, 1024)
    mapped = Path("/proc/self/smaps").read_text().partition("thumbnails.u8")[2]
    found = re.search(r"Rss: +(\d+) kB", mapped)
    # 4,000 KB were read, in blocks of 500.
    assert int(found[1]) <= 500


def test_no_more_pictures_are_decoded_at_once_than_there_are_cores(monkeypatch):
    for cores in (1, 3):
        monkeypatch.setattr(intake, "usable_cores", lambda cores=cores: cores)
        assert len(intake.start_checking(1, 32)) == cores
        assert len(intake.start_checking(intake.PROCESSES_FROM, 32)) == cores


def test_processes_check_only_large_sets_of_a_server_on_several_cores(monkeypatch):
    def are_processes(cores, files, requests):
        monkeypatch.setattr(intake, "usable_cores", lambda: cores)
        return [hasattr(serve, "__self__") for serve in intake.start_checking(files, requests)]

    assert are_processes(3, 3000, 32) == [True] * 3
    assert are_processes(1, 3000, 32) == [False]
    assert are_processes(3, 2999, 32) == [False] * 3
    assert are_processes(3, 3000, 4) == [False] * 3


def test_pictures_are_in_the_catalogue_as_soon_as_anything_is_asked(catalogue):
    for file in range(3):
        catalogue.add_picture(
            {"file": file, "frame": 0, "kind": "images", "name": "a"}, bytes(1024)
        )
        assert catalogue.value("SELECT COUNT(*) FROM pictures") == file + 1
    catalogue.add_picture({"file": 3, "frame": 0, "kind": "labels", "name": "b"}, bytes(1024))
    catalogue.add_picture({"file": 4, "frame": 0, "kind": "labels", "name": "c", "label": "x"}, b"")
    rows = list(catalogue.rows("SELECT id, file, label FROM pictures ORDER BY id"))
    assert rows == [(1, 0, None), (2, 1, None), (3, 2, None), (4, 3, None), (5, 4, "x")]
