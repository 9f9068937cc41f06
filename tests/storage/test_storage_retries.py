"""Trying again: how long is waited, when it ends, and what is said and counted."""

from __future__ import annotations

import pytest
from stepping_clock import SteppingClock

from sightline.errors import UserError
from sightline.storage import StorageUnavailableError, retries
from sightline.storage.retries import PassingError, Retries, retries_told, retry_counts


class StoppedClock:
    """Time passes only in sleeps."""

    def __init__(self):
        self.slept = []

    def monotonic(self):
        return sum(self.slept)

    def sleep(self, seconds):
        self.slept.append(seconds)


@pytest.fixture
def clock():
    return StoppedClock()


@pytest.fixture(autouse=True)
def fresh_notes(monkeypatch):
    monkeypatch.setattr(retries, "_NOTES", retries._Notes())


def fail(_ends):
    raise PassingError("503 SlowDown", kind="SlowDown")


def test_waits_grow_to_ten_seconds_and_are_spread_below_that(clock):
    with pytest.raises(StorageUnavailableError):
        Retries(200, 1e9, clock).call("read a", fail)
    longest = [min(10.0, 0.5 * 2.0**n) for n in range(200)]
    assert all(0 <= wait <= limit for wait, limit in zip(clock.slept, longest, strict=True))
    # The mean of 195 uniform waits of 0 to 10 s lies within 5 sigma of 5 s: 5 * 10/sqrt(12 * 195).
    late = clock.slept[5:]
    assert sum(late) / len(late) == pytest.approx(5.0, abs=1.04)
    assert min(late) < 2 < 8 < max(late)


def test_as_many_tries_as_retries_and_one(clock):
    with pytest.raises(StorageUnavailableError, match=r"cannot read a: 503 SlowDown \(4 tries in"):
        Retries(3, 1e9, clock).call("read a", fail)
    with pytest.raises(StorageUnavailableError, match=r"\(1 try in 0 s\)"):
        Retries(0, 1e9, clock).call("read a", fail)
    assert len(clock.slept) == 3


def test_no_try_starts_past_the_deadline(clock):
    with pytest.raises(StorageUnavailableError):
        Retries(100, 30.0, clock).call("read a", fail)
    assert 20 < clock.monotonic() <= 30


def test_wait_beyond_the_deadline_is_not_begun(clock):
    def ask_for_an_hour(_ends):
        raise PassingError("503", retry_after_seconds=3600)

    with pytest.raises(StorageUnavailableError):
        Retries(100, 180.0, clock).call("read a", ask_for_an_hour)
    assert clock.slept == []


def test_other_errors_are_not_tried_again(clock):
    tries = []

    def refuse(_ends):
        tries.append(1)
        raise UserError("no permission")

    with pytest.raises(UserError, match="no permission"):
        Retries(100, 180.0, clock).call("read a", refuse)
    assert len(tries) == 1


def test_attempt_is_told_when_to_give_up(clock):
    clock.slept.append(7.0)
    assert Retries(1, 30.0, clock).call("read a", lambda ends: ends) == 37.0


def test_retries_are_counted_by_kind_and_told_once_in_ten_seconds(clock, capsys):
    left = [PassingError("SlowDown of many words", kind="SlowDown")] * 30
    left += [PassingError("cut body")] * 20

    def fail_fifty_times(_ends):
        if left:
            raise left.pop()
        return "done"

    assert Retries(100, 1e9, clock).call("read s3://b/k", fail_fifty_times) == "done"
    assert retry_counts() == {"SlowDown": 30, "cut body": 20}
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) <= clock.monotonic() / 10 + 1
    assert lines[0].startswith("sightline: cannot read s3://b/k yet: cut body; trying again in ")
    assert lines[0].endswith("(1 retry so far)")
    assert "retries so far" in lines[1]


def test_real_clock_waits_no_longer_than_asked():
    clock = SteppingClock()
    before = retries.REAL_CLOCK.monotonic()
    retries.REAL_CLOCK.sleep(0)
    assert clock.monotonic() >= before


def test_step_tells_at_its_end_what_it_tried_again(clock, capsys):
    left = iter(["cut body", "SlowDown", "SlowDown"])

    def fail_three_times(_ends):
        if kind := next(left, None):
            raise PassingError("no", kind=kind)
        return "done"

    with retries_told("prepare"):
        assert Retries(5, 1e9, clock).call("read a", fail_three_times) == "done"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "sightline prepare: 3 requests were tried again (2 SlowDown, 1 cut body)"
    with retries_told("pretrain"):
        pass
    assert capsys.readouterr().err == ""
