"""A new preparation removes what a killed one left, and nothing else."""

from __future__ import annotations

import os
import tempfile
import time

from sightline.prepare import leftovers
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.leftovers import GRACE_SECONDS, remove_leftovers
from sightline.steps import COMMANDS
from sightline.storage import open_storage


def write(path, age_seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = time.time() - age_seconds
    os.utime(path, (then, then))


def test_old_unfinished_writes_go_and_all_else_stays(tmp_path, capsys):
    old, new = GRACE_SECONDS + 60, GRACE_SECONDS - 60
    gone = ["shards/.partial-a", "0123456789abcdef/.partial-b"]
    kept = ["shards/aa.tar", "0123456789abcdef/samples.jsonl", "notes/.partial-c", ".partial-d"]
    for key in (*gone, *kept):
        write(tmp_path / key, old)
    write(tmp_path / "shards" / ".partial-new", new)
    remove_leftovers(str(tmp_path))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "shards/.partial-new"}
    assert "removed 2 writes that never ended" in capsys.readouterr().out


def test_upload_in_parts_that_never_ended_goes_once_it_is_old(s3_bucket, s3_server, monkeypatch):
    bucket = s3_bucket.removeprefix("s3://")
    s3_server.client().create_multipart_upload(Bucket=bucket, Key="store/shards/a.tar")
    store = f"{s3_bucket}/store"
    # Some servers of tests give a time of long ago.
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 1e12)
    remove_leftovers(store)
    assert len(list(open_storage(store).list_unfinished())) == 1
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", -60)
    remove_leftovers(store)
    assert not list(open_storage(store).list_unfinished())


def test_preparation_removes_what_a_killed_one_left(tmp_path, make_images, monkeypatch, capsys):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (scratch / "sightline-shards-dead").mkdir()
    (scratch / "sightline-shards-dead" / "lock").touch()  # and no process holds it
    unfinished = tmp_path / "store" / "shards" / ".partial-a"
    write(unfinished, GRACE_SECONDS + 60)
    images = make_images(tmp_path / "images")
    COMMANDS["prepare"].execute(
        PrepareUris(
            images_uri=str(images),
            store_uri=str(tmp_path / "store"),
            out_uri=str(tmp_path / "out"),
        ),
        PrepareConfig(),
    )
    assert not unfinished.exists()
    assert not list(scratch.iterdir())
    assert "prepare: removed 1 scratch folder of killed steps" in capsys.readouterr().out
