"""S3 that fails: what passes is tried again, what was torn is never seen, bytes stay the same."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_proxy import (
    CUT,
    DAMAGED_UPLOAD,
    LOST_ANSWER,
    RESET,
    SILENCE,
    STALL,
    TORN_UPLOAD,
    WRONG_BYTES,
    Answer,
)
from stepping_clock import SteppingClock

from sightline.storage import StorageUnavailableError
from sightline.storage.retries import retry_counts
from sightline.storage.s3 import PART_BYTES

BUSY = [
    Answer(500, "InternalError"),
    Answer(503, "SlowDown"),
    Answer(429, "TooManyRequests"),
    Answer(502, "", "a gateway's page"),
]
BROKEN = [RESET, CUT, STALL, SILENCE]
CONTENT = bytes(range(256)) * 80


needs_checksums = pytest.mark.skipif(
    not os.environ.get("TESTBED_S3_ENDPOINT"), reason="moto keeps and compares no checksums"
)


def name_of(fault):
    return fault if isinstance(fault, str) else str(fault.status)


def patience(fault):
    """Return settings that end a stall soon, and give a busy machine its time elsewhere."""
    return {"s3_read_timeout_seconds": 0.4} if fault in (STALL, SILENCE) else {}


@pytest.fixture
def stored(open_faulty, faults):
    open_faulty().write_bytes("image", CONTENT)
    faults.requests.clear()
    return faults


@pytest.mark.parametrize(
    "fault",
    [*BUSY, *BROKEN, pytest.param(WRONG_BYTES, marks=needs_checksums)],
    ids=name_of,
)
def test_read_that_fails_twice_gives_the_bytes_on_the_third_try(fault, stored, open_faulty):
    before = sum(retry_counts().values())
    stored.fail(fault, first=2)
    assert open_faulty(**patience(fault)).read_bytes("image") == CONTENT
    assert len(stored.requests) == 3
    assert sum(retry_counts().values()) == before + 2


@pytest.mark.parametrize("fault", [*BUSY, *BROKEN], ids=name_of)
def test_part_of_an_object_is_read_again_too(fault, stored, open_faulty):
    stored.fail(fault, first=1)
    assert open_faulty(**patience(fault)).read_bytes("image", 1000, 5000) == CONTENT[1000:6000]
    assert len(stored.requests) == 2


@pytest.mark.parametrize("fault", [*BUSY, RESET, SILENCE, LOST_ANSWER, TORN_UPLOAD], ids=name_of)
def test_write_that_fails_twice_is_stored_on_the_third_try(fault, faults, open_faulty):
    faults.fail(fault, first=2)
    open_faulty(**patience(fault)).write_bytes("image", CONTENT)
    assert [method for method, _ in faults.requests] == ["PUT"] * 3
    assert open_faulty().read_bytes("image") == CONTENT


@pytest.mark.parametrize("fault", [*BUSY, RESET, SILENCE, LOST_ANSWER], ids=name_of)
def test_list_exists_and_delete_are_tried_again(fault, stored, open_faulty):
    storage = open_faulty(**patience(fault))
    stored.fail(fault, first=1)
    assert [entry.key for entry in storage.list()] == ["image"]
    stored.fail(fault, first=1)
    assert storage.exists("image")
    stored.fail(fault, first=1)
    storage.delete("image")
    assert stored.faults == 3
    assert not storage.exists("image")


@needs_checksums
def test_thousand_reads_with_a_fault_in_ten_percent_give_the_same_bytes(stored, open_faulty):
    storage = open_faulty(s3_read_timeout_seconds=1.0)
    contents = {f"image-{n}": hashlib.sha256(b"%d" % n).digest() * 8 for n in range(50)}
    for key, content in contents.items():
        storage.write_bytes(key, content)
    stored.fail(STALL, first=3)
    faults = [*BUSY, RESET, CUT, WRONG_BYTES]
    for seed, fault in enumerate(faults):
        stored.fail(fault, share=0.1 / len(faults), seed=seed)
    before = sum(retry_counts().values())
    keys = list(contents) * 20
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(storage.read_bytes, keys))
    assert read == [contents[key] for key in keys]
    assert stored.faults > 50
    assert sum(retry_counts().values()) - before >= stored.faults


@needs_checksums
@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_upload_that_was_damaged_on_its_way_is_refused_and_sent_again(
    checksums, faults, open_faulty
):
    storage = open_faulty(s3_checksums=checksums)
    storage.write_bytes("image", CONTENT)
    faults.requests.clear()
    faults.fail(DAMAGED_UPLOAD, first=1)
    storage.write_bytes("image", CONTENT[::-1])
    assert len(faults.requests) == 2
    assert storage.read_bytes("image") == CONTENT[::-1]


def test_torn_upload_leaves_the_old_object(stored, open_faulty):
    stored.fail(TORN_UPLOAD)
    with pytest.raises(StorageUnavailableError, match=r"cannot write s3://.*/image: .*\(3 tries"):
        open_faulty(s3_retries=2).write_bytes("image", CONTENT[::-1])
    stored.heal()
    assert open_faulty().read_bytes("image") == CONTENT


def test_store_that_is_away_for_a_minute_is_waited_for(stored, open_faulty):
    clock = SteppingClock(lambda slept_seconds: stored.start() if slept_seconds > 60 else None)
    storage = open_faulty(clock)
    storage.read_bytes("image")
    stored.stop()
    assert storage.read_bytes("image") == CONTENT
    assert 60 < sum(clock.slept) < 71


def test_write_and_list_wait_for_the_store_too(stored, open_faulty):
    clock = SteppingClock(lambda slept_seconds: stored.start() if slept_seconds > 60 else None)
    storage = open_faulty(clock)
    stored.stop()
    storage.write_bytes("image", CONTENT[::-1])
    assert sum(clock.slept) > 60
    clock.slept.clear()
    stored.stop()
    assert [entry.key for entry in storage.list()] == ["image"]
    assert sum(clock.slept) > 60


def test_store_that_stays_away_is_given_up_at_the_deadline(stored, open_faulty, capsys):
    clock = SteppingClock()
    storage = open_faulty(clock, s3_retries=100)
    stored.stop()
    with pytest.raises(
        StorageUnavailableError,
        match=r"cannot read s3://.*/image: no connection to .* \(\d+ tries in 1\d\d s\)",
    ):
        storage.read_bytes("image")
    assert 160 < sum(clock.slept) <= 180
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 180 / 10 + 1
    assert "cannot read s3://" in lines[-1]


def test_body_that_trickles_is_given_up_at_the_deadline(stored, open_faulty):
    class HastyClock(SteppingClock):
        """Twenty seconds pass from one look to the next, as if each byte took so long."""

        looks = 0

        def monotonic(self):
            self.looks += 1
            return 20.0 * self.looks

    open_faulty().write_bytes("large", bytes(2**20))  # more than comes at once
    storage = open_faulty(HastyClock(), s3_deadline_seconds=30)
    with pytest.raises(StorageUnavailableError, match="the body came too slowly"):
        storage.read_bytes("large")


def test_wait_that_the_server_asks_for_is_kept(stored, open_faulty):
    clock = SteppingClock()
    stored.fail(Answer(503, "SlowDown", headers={"Retry-After": "17"}), first=1)
    assert open_faulty(clock).read_bytes("image") == CONTENT
    assert clock.slept == [17.0]


@pytest.fixture
def big_file(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2 * PART_BYTES + 12345))
    return path


def is_part(method, path):
    return method == "PUT" and "partNumber=2" in path


def is_end(method, path):
    return method == "POST" and "uploadId=" in path


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (Answer(503, "SlowDown"), is_part),
        (TORN_UPLOAD, is_part),
        pytest.param(DAMAGED_UPLOAD, is_part, marks=needs_checksums),
        (LOST_ANSWER, is_part),
        (RESET, is_end),
        (LOST_ANSWER, is_end),
    ],
    ids=lambda value: getattr(value, "__name__", None) or name_of(value),
)
def test_upload_in_parts_survives_a_fault(fault, where, big_file, faults, open_faulty, tmp_path):
    storage = open_faulty()
    faults.fail(fault, first=1, matches=where)
    storage.upload(big_file, "big")
    assert faults.faults == 1
    storage.download("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big_file.read_bytes()
    assert list(storage.list_unfinished()) == []


@pytest.mark.parametrize("where", [is_part, is_end], ids=["part", "end"])
def test_upload_in_parts_that_fails_is_aborted_and_never_seen(where, big_file, faults, open_faulty):
    storage = open_faulty(s3_retries=1)
    faults.fail(Answer(500, "InternalError"), matches=where)
    with pytest.raises(StorageUnavailableError, match="500 InternalError"):
        storage.upload(big_file, "big")
    assert list(storage.list_unfinished()) == []
    assert list(storage.list()) == []
    assert not storage.exists("big")


@pytest.mark.parametrize("size", ["whole", "in parts"])
def test_upload_of_what_must_be_new_leaves_what_is_there(size, big_file, open_faulty, tmp_path):
    storage = open_faulty()
    source = big_file
    if size == "whole":
        source = tmp_path / "small"
        source.write_text("small")
    assert storage.upload(source, "k", only_new=True)
    first = storage.read_bytes("k")
    other = tmp_path / "other"
    other.write_bytes(source.read_bytes()[:-1] + b"?")
    assert not storage.upload(other, "k", only_new=True)
    assert storage.read_bytes("k") == first
    assert list(storage.list_unfinished()) == []


def test_upload_in_parts_that_another_writer_overtakes_leaves_what_came_first(
    big_file, faults, open_faulty, s3_server
):
    storage = open_faulty()
    other = open_faulty(s3_endpoint_url=s3_server.endpoint_url)

    def others_write_before_the_end(method, path):
        if is_end(method, path):
            other.write_bytes("big", b"first")
        return False

    faults.fail(Answer(500, "InternalError"), matches=others_write_before_the_end)
    assert not storage.upload(big_file, "big", only_new=True)
    assert storage.read_bytes("big") == b"first"
    assert list(storage.list_unfinished()) == []


def test_download_that_fails_midway_leaves_the_old_file_alone(
    big_file, faults, open_faulty, tmp_path
):
    storage = open_faulty(s3_retries=1)
    storage.upload(big_file, "big")
    target = tmp_path / "downloads" / "big"
    target.parent.mkdir()
    target.write_text("old")
    seen = len(faults.requests)
    faults.fail(
        Answer(500, "InternalError"),
        matches=lambda _method, _path: len(faults.requests) > seen + 1,
    )
    with pytest.raises(StorageUnavailableError):
        storage.download("big", target)
    assert [path.name for path in target.parent.iterdir()] == ["big"]
    assert target.read_text() == "old"


def test_conditional_write_whose_answer_was_lost_counts_as_done(faults, open_faulty):
    storage = open_faulty()
    assert storage.write_if_unchanged("pointer", b"1", expected=None)
    faults.fail(LOST_ANSWER, first=1, matches=lambda method, _path: method == "PUT")
    assert storage.write_if_unchanged("pointer", b"2", expected=b"1")
    faults.fail(LOST_ANSWER, first=1, matches=lambda method, _path: method == "PUT")
    assert storage.write_if_unchanged("other", b"3", expected=None)
    assert (storage.read_bytes("pointer"), storage.read_bytes("other")) == (b"2", b"3")


def test_conditional_write_that_met_a_fault_and_another_writer_says_no(faults, open_faulty):
    storage = open_faulty()
    assert storage.write_if_unchanged("pointer", b"1", expected=None)
    faults.fail(Answer(500, "InternalError"), first=1, matches=lambda m, _path: m == "PUT")
    assert not storage.write_if_unchanged("pointer", b"2", expected=None)
    assert storage.read_bytes("pointer") == b"1"


def test_conflict_of_two_conditional_writes_is_tried_again(faults, open_faulty):
    storage = open_faulty()
    storage.write_if_unchanged("pointer", b"1", expected=None)
    faults.fail(Answer(409, "ConditionalRequestConflict"), first=1, matches=lambda m, _: m == "PUT")
    assert storage.write_if_unchanged("pointer", b"2", expected=b"1")
