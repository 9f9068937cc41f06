"""A step's results: visible whole and unaltered, or not at all."""

from __future__ import annotations

import hashlib
import json

import pytest

from sightline.config import StepConfig, StepUris
from sightline.errors import UserError
from sightline.storage import NotFoundError, fetch_artifacts, new_artifacts, require_new
from sightline.storage.artifacts import ARTIFACTS_FILE
from sightline.storage.local import LocalStorage


class StretchUris(StepUris):
    out_uri: str
    """Where it writes."""


class StretchConfig(StepConfig):
    factor: int = 2
    """How far."""


def publish(out_uri, **files):
    uris = StretchUris(out_uri=out_uri)
    with new_artifacts("stretch", uris, StretchConfig(), out_uri) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


@pytest.fixture
def out_uri(tmp_path):
    return str(tmp_path / "out")


def test_published_files_come_back_with_the_settings_that_made_them(out_uri):
    publish(out_uri, weights="1 2 3")
    folder = fetch_artifacts(out_uri)
    assert (folder / "weights").read_text() == "1 2 3"
    described = json.loads((folder / "config.json").read_text())
    assert described["step"] == "stretch"
    assert described["settings"] == {"factor": 2}
    assert described["uris"] == {"out_uri": out_uri}


def test_step_that_raises_publishes_nothing(out_uri, tmp_path):
    uris = StretchUris(out_uri=out_uri)

    def fail_midway():
        with new_artifacts("stretch", uris, StretchConfig(), out_uri) as folder:
            (folder / "weights").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_midway()
    assert list(tmp_path.rglob("*")) == []
    with pytest.raises(NotFoundError, match="no finished result under"):
        fetch_artifacts(out_uri)


def test_folder_without_the_last_written_list_holds_no_result(out_uri, tmp_path):
    publish(out_uri, weights="1")
    (tmp_path / "out" / "artifacts.json").unlink()
    with pytest.raises(NotFoundError, match="the step that writes it has not ended there"):
        fetch_artifacts(out_uri)


@pytest.mark.parametrize("text", ["9 2 3", "1 2 3 4", ""])
def test_altered_file_is_refused(out_uri, tmp_path, text):
    publish(out_uri, weights="1 2 3")
    (tmp_path / "out" / "weights").write_text(text)
    with pytest.raises(UserError, match=r"weights was altered.* run its step again"):
        fetch_artifacts(out_uri, ["weights"])


def test_lost_file_is_refused_and_an_unknown_one_is_named(out_uri, tmp_path):
    publish(out_uri, weights="1")
    (tmp_path / "out" / "weights").unlink()
    with pytest.raises(UserError, match="weights is gone although its step published it"):
        fetch_artifacts(out_uri)
    with pytest.raises(NotFoundError, match=r"has no wights; it holds config.json, weights"):
        fetch_artifacts(out_uri, ["wights"])


def test_finished_result_is_never_overwritten(out_uri):
    publish(out_uri, weights="first")
    with pytest.raises(UserError, match="results are never overwritten"):
        publish(out_uri, weights="second")
    with pytest.raises(UserError, match="choose another out_uri"):
        require_new(out_uri)
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "first"


def test_two_runs_at_once_never_spoil_the_result_that_came_first(out_uri, monkeypatch):
    looked = LocalStorage.exists
    other: list[str] = ["second"]

    def finish_the_other_run_after_looking(storage, key):
        is_there = looked(storage, key)
        if key == ARTIFACTS_FILE and other and not is_there:
            monkeypatch.setattr(LocalStorage, "exists", looked)
            publish(out_uri, weights=other.pop())
        return is_there

    def begin_the_first_run():
        uris = StretchUris(out_uri=out_uri)
        with new_artifacts("stretch", uris, StretchConfig(), out_uri) as folder:
            (folder / "weights").write_text("first")
            monkeypatch.setattr(LocalStorage, "exists", finish_the_other_run_after_looking)

    with pytest.raises(UserError, match="received a finished result from another run meanwhile"):
        begin_the_first_run()
    assert other == []
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "second"


def test_files_that_a_killed_run_left_are_neither_taken_nor_written_over(out_uri, tmp_path):
    left = tmp_path / "out" / "weights.pt"
    left.parent.mkdir()
    left.write_text("of a killed run")
    uris = StretchUris(out_uri=out_uri)
    for _ in range(2):  # as again by a run that was killed before it published its list
        with new_artifacts("stretch", uris, StretchConfig(), out_uri) as folder:
            (folder / "weights.pt").write_text("ours")
        assert left.read_text() == "of a killed run"
        assert (fetch_artifacts(out_uri, ["weights.pt"]) / "weights.pt").read_text() == "ours"
        kept = (tmp_path / "out" / "artifacts.json").read_bytes()
        (tmp_path / "out" / "artifacts.json").unlink()
    digest = hashlib.sha256(b"ours").hexdigest()
    assert json.loads(kept)["files"]["weights.pt"] == {
        "size_bytes": 4,
        "sha256": digest,
        "key": f"weights.{digest[:12]}.pt",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        f"weights.{digest[:12]}.pt",
        "weights.pt",
    ]


def test_list_whose_key_leaves_the_folder_is_refused(out_uri, tmp_path):
    publish(out_uri, weights="1")
    path = tmp_path / "out" / "artifacts.json"
    listed = json.loads(path.read_text())
    listed["files"]["weights"]["key"] = "../weights"
    path.write_text(json.dumps(listed))
    with pytest.raises(UserError, match="is not as a step writes it"):
        fetch_artifacts(out_uri)
