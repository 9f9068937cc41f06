"""What keeps a preparation within its bounds: an early refusal, memory, decoders at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import sightline.prepare.run as steps
from sightline.config import UserError
from sightline.prepare import intake
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.storage import open_storage


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


def test_no_more_pictures_are_decoded_at_once_than_there_are_cores(tmp_path, monkeypatch):
    Image.new("L", (32, 32), 9).save(tmp_path / "a.png")
    monkeypatch.setattr(intake, "usable_cores", lambda: 1)
    reader = intake._Reader(
        {"images": open_storage(str(tmp_path))}, {"images": 32}, PrepareConfig()
    )
    assert reader.threads > 1
    is_free = []
    read_file = intake.read_file

    def look_and_read(*arguments, **options):
        is_free.append(reader._decoding.acquire(blocking=False))
        return read_file(*arguments, **options)

    monkeypatch.setattr(intake, "read_file", look_and_read)
    file = intake.FileToRead(1, "images", "a.png", None, "train", 100)
    for _ in range(2):
        assert len(reader.read(file)[1]) == 1
    assert is_free == [False, False]
