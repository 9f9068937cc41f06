"""A step's results in a bucket: whole, unaltered, fetched once, and published by one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import CUT, RESET, TORN_UPLOAD, WRONG_BYTES, Answer

from sightline.config import StepConfig, StepUris
from sightline.errors import UserError
from sightline.storage import (
    NotFoundError,
    StorageUnavailableError,
    fetch_artifacts,
    new_artifacts,
    open_storage,
    require_new,
)


class StretchUris(StepUris):
    out_uri: str
    """Where it writes."""


class StretchConfig(StepConfig):
    factor: int = 2
    """How far."""


def publish(out_uri, between=lambda: None, **files):
    uris = StretchUris(out_uri=out_uri)
    with new_artifacts("stretch", uris, StretchConfig(), out_uri) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        between()


@pytest.fixture
def out_uri(s3_bucket):
    return s3_bucket + "/runs/1"


def reads_of(faults, name):
    return sum(method == "GET" and path.endswith(f"/{name}") for method, path in faults.requests)


def test_published_files_come_back_and_are_fetched_once(faults, out_uri):
    publish(out_uri, **{"weights": "1 2 3", "plots/loss.svg": "<svg/>"})
    faults.requests.clear()
    folder = fetch_artifacts(out_uri, ["weights"])
    assert fetch_artifacts(out_uri) == folder
    assert (folder / "weights").read_text() == "1 2 3"
    assert (folder / "plots" / "loss.svg").read_text() == "<svg/>"
    assert json.loads((folder / "config.json").read_text())["uris"] == {"out_uri": out_uri}
    assert [reads_of(faults, name) for name in ("weights", "loss.svg", "config.json")] == [1, 1, 1]


def test_result_that_was_made_anew_is_not_taken_from_what_was_fetched_before(out_uri):
    publish(out_uri, weights="first")
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "first"
    open_storage(out_uri).delete("artifacts.json")
    publish(out_uri, weights="second")
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "second"


def test_files_that_a_killed_run_left_are_neither_taken_nor_written_over(out_uri):
    open_storage(out_uri).write_bytes("plots/loss.svg", b"of a killed run")
    publish(out_uri, **{"weights": "1", "plots/loss.svg": "<svg/>"})
    folder = fetch_artifacts(out_uri)
    assert (folder / "plots" / "loss.svg").read_text() == "<svg/>"
    assert open_storage(out_uri).read_bytes("plots/loss.svg") == b"of a killed run"


def test_fetched_files_go_when_the_process_ends(out_uri):
    publish(out_uri, weights="1")
    program = (
        "import sys; from sightline.storage import fetch_artifacts;"
        "print(fetch_artifacts(sys.argv[1]), end='')"
    )
    command = [sys.executable, "-c", program, out_uri]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "sightline-fetched-" in folder
    assert not Path(folder).parent.exists()


@pytest.mark.parametrize("text", ["9 2 3", "1 2 3 4", ""])
def test_altered_file_is_refused_each_time(text, out_uri):
    publish(out_uri, weights="1 2 3")
    open_storage(out_uri).write_bytes("weights", text.encode())
    for _ in range(2):
        with pytest.raises(UserError, match=r"weights was altered.* run its step again"):
            fetch_artifacts(out_uri, ["weights"])


def test_lost_file_and_unfinished_result_are_named(out_uri):
    publish(out_uri, weights="1")
    open_storage(out_uri).delete("weights")
    with pytest.raises(UserError, match="weights is gone although its step published it"):
        fetch_artifacts(out_uri)
    open_storage(out_uri).delete("artifacts.json")
    with pytest.raises(NotFoundError, match="no finished result under"):
        fetch_artifacts(out_uri)


def test_list_that_was_damaged_on_its_way_is_read_again(faults, out_uri, monkeypatch):
    publish(out_uri, weights="1 2 3")
    monkeypatch.setenv("SIGHTLINE_S3_CHECKSUMS", "when_required")  # a server that sends no sum
    faults.fail(WRONG_BYTES, first=1, matches=lambda _method, path: "artifacts.json" in path)
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "1 2 3"
    assert faults.faults == 1


@pytest.mark.parametrize("fault", [WRONG_BYTES, CUT, RESET])
def test_file_that_was_damaged_on_its_way_is_fetched_again(fault, faults, out_uri):
    publish(out_uri, weights="1 2 3")
    faults.fail(fault, first=1, matches=lambda _method, path: path.endswith("/weights"))
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "1 2 3"
    assert faults.faults == 1


@pytest.mark.parametrize(
    "manifest",
    [
        b"<html>not found</html>",
        b"[]",
        b'{"files": {"weights": 5}}',
        b'{"files": {"weights": {"size_bytes": 1}}}',
        b'{"files": {"../outside": {"size_bytes": 1, "sha256": "a"}}}',
        b'{"files": {"/etc/passwd": {"size_bytes": 1, "sha256": "a"}}}',
        b'{"files": {"a//b": {"size_bytes": 1, "sha256": "a"}}}',
        b'{"files": {"a\\\\..\\\\b": {"size_bytes": 1, "sha256": "a"}}}',
        b'{"files": {"a\\u0000b": {"size_bytes": 1, "sha256": "a"}}}',
        b"\xff\xfe",
    ],
)
def test_list_that_no_step_wrote_is_refused(manifest, out_uri, tmp_path):
    for uri in (out_uri, str(tmp_path)):
        open_storage(uri).write_bytes("artifacts.json", manifest)
        with pytest.raises(UserError, match=r"artifacts\.json is not as a step writes it"):
            fetch_artifacts(uri)


def test_step_that_cannot_upload_publishes_nothing(faults, out_uri, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "1")
    faults.fail(TORN_UPLOAD, matches=lambda _method, path: path.endswith("/weights"))
    with pytest.raises(StorageUnavailableError, match=r"cannot write .*/weights"):
        publish(out_uri, weights="1 2 3")
    with pytest.raises(NotFoundError, match="no finished result"):
        fetch_artifacts(out_uri)
    faults.heal()
    publish(out_uri, weights="1 2 3")
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "1 2 3"


def test_finished_result_is_never_overwritten(out_uri):
    publish(out_uri, weights="first")
    with pytest.raises(UserError, match="results are never overwritten"):
        require_new(out_uri)
    assert (fetch_artifacts(out_uri) / "weights").read_text() == "first"


@pytest.fixture(params=["bucket", "folder"])
def shared_uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "out")
    return request.getfixturevalue("out_uri")


def test_publishers_of_the_same_bytes_at_once_all_end_well(shared_uri):
    barrier = threading.Barrier(4, timeout=60)
    with ThreadPoolExecutor(4) as threads:
        ended = [
            threads.submit(publish, shared_uri, between=barrier.wait, weights="1 2 3")
            for _ in range(4)
        ]
    assert [each.exception() for each in ended] == [None] * 4
    assert (fetch_artifacts(shared_uri) / "weights").read_text() == "1 2 3"


def test_publisher_who_comes_second_with_other_bytes_is_refused(shared_uri):
    with pytest.raises(UserError, match="received a finished result from another run meanwhile"):
        publish(shared_uri, between=lambda: publish(shared_uri, weights="first"), weights="second")
    assert (fetch_artifacts(shared_uri) / "weights").read_text() == "first"


def test_target_that_refuses_writes_is_told_before_the_step_begins(faults, out_uri):
    faults.fail(Answer(403, "AccessDenied"), matches=lambda method, _path: method == "PUT")
    begun = []
    with pytest.raises(UserError, match="no permission to write"):
        publish(out_uri, between=lambda: begun.append(1), weights="1")
    assert begun == []
