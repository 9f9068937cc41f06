import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from sightline.config import StepUris
from sightline.errors import UserError
from sightline.storage import join_uri, open_storage
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.begun import BEGUN_FILE, step_begun


class Uris(StepUris):
    dataset_uri: str = "data"
    out_uri: str


@pytest.fixture(params=["folder", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a step may write, once in a folder and once in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "runs" / "step")
    return join_uri(request.getfixturevalue("s3_bucket"), "runs", "step")


def begun_at(uri: str) -> Any:
    return step_begun("evaluate", Uris(out_uri=uri))


def keys_of(uri: str) -> list[str]:
    return [entry.key for entry in open_storage(uri).list()]


def test_step_says_what_it_was_given_until_it_has_succeeded(uri: str):
    with begun_at(uri):
        [mark] = keys_of(uri)
        assert re.fullmatch(BEGUN_FILE, mark)
        assert json.loads(open_storage(uri).read_bytes(mark)) == {
            "step": "evaluate",
            "uris": {"dataset_uri": "data", "out_uri": uri},
        }
        open_storage(uri).write_bytes(ARTIFACTS_FILE, b"{}")
    assert keys_of(uri) == [ARTIFACTS_FILE]


def test_refused_input_leaves_nothing_not_even_a_folder(tmp_path: Path):
    with pytest.raises(UserError), begun_at(str(tmp_path / "runs" / "step")):
        raise UserError("no such data set")
    assert list(tmp_path.iterdir()) == []


def test_refused_input_leaves_nothing_in_a_bucket(s3_bucket: str):
    with pytest.raises(UserError), begun_at(s3_bucket):
        raise UserError("no such data set")
    assert keys_of(s3_bucket) == []


def test_step_that_was_interrupted_may_go_on_so_its_word_stays(uri: str):
    with pytest.raises(KeyboardInterrupt), begun_at(uri):
        raise KeyboardInterrupt
    [mark] = keys_of(uri)
    with pytest.raises(UserError), begun_at(uri):
        raise UserError("refused")
    assert keys_of(uri) == [mark], "that of the try that was refused goes"

    def fail_late() -> None:
        open_storage(uri).write_bytes("checkpoints/1", b"")
        raise UserError("the loss is no number")

    with pytest.raises(UserError), begun_at(uri):
        fail_late()
    assert len(keys_of(uri)) == 3
    with begun_at(uri):
        pass
    assert keys_of(uri) == ["checkpoints/1"]


def test_what_others_left_stays(uri: str):
    others = {
        ".begun-0123456789ab.json": b'{"step": "evaluate", "uris": {"dataset_uri": "other"}}',
        ".begun-0123456789ab.json.bak": b"mine",
        ".begun-notes/thesis.tex": b"mine",
        "begun.md": b"mine",
    }
    for key, content in others.items():
        open_storage(uri).write_bytes(key, content)
    with begun_at(uri):
        pass
    assert set(keys_of(uri)) == set(others)
    time.sleep(1.1)  # a store may know whole seconds only
    with pytest.raises(UserError), begun_at(uri):
        raise UserError("refused")
    assert set(keys_of(uri)) == set(others)


def test_try_that_fails_after_another_has_succeeded_tells_why(uri: str):
    def fail_late() -> None:
        with begun_at(uri):
            pass
        raise UserError("already there")

    with pytest.raises(UserError, match="already there"), begun_at(uri):
        fail_late()
    assert keys_of(uri) == []


def test_finished_result_is_not_written_to(uri: str):
    open_storage(uri).write_bytes(ARTIFACTS_FILE, b"{}")
    with begun_at(uri):
        assert keys_of(uri) == [ARTIFACTS_FILE]


def test_first_of_several_processes_speaks(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    with begun_at(uri):
        assert len(keys_of(uri)) == 1, "set for another purpose"
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with begun_at(uri):
        assert keys_of(uri) == []


def test_place_that_cannot_be_written_to_is_told_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), begun_at(str(tmp_path / "file" / "x")):
        raise AssertionError
