"""Reading again what came with other bytes: when it ends, and what is then said."""

from __future__ import annotations

import itertools

import pytest
from stepping_clock import SteppingClock

from sightline.storage import StorageUnavailableError
from sightline.storage.retries import retry_counts
from sightline.storage.verified import AlteredError, read_verified, refuse_altered


def reader(*digests):
    """Return a read that finds one digest after another; `good` is the right one."""
    found = iter(digests)

    def read():
        digest = next(found)
        refuse_altered("a.png in s3://b/shard.tar", "good", digest, "run prepare again")
        return digest

    return read


def test_bytes_that_are_right_another_time_are_returned_and_the_others_counted():
    before = retry_counts().get("wrong bytes", 0)
    clock = SteppingClock()
    assert read_verified("shard", reader("bad", "worse", "good"), clock) == "good"
    assert retry_counts()["wrong bytes"] == before + 2
    assert len(clock.slept) == 2


def test_waits_double_from_a_twentieth_of_a_second():
    clock = SteppingClock()
    with pytest.raises(StorageUnavailableError):
        read_verified("shard", reader(*map(str, range(9))), clock)
    assert all(0 <= s <= 0.05 * 2.0**n for n, s in enumerate(clock.slept))
    assert len(clock.slept) == 7


def test_same_wrong_bytes_five_times_are_what_is_stored():
    clock = SteppingClock()
    with pytest.raises(AlteredError, match=r"a.png in s3://b/shard.tar was altered.*prepare again"):
        read_verified("shard", reader(*["bad"] * 5), clock)
    assert len(clock.slept) == 4


def test_other_wrong_bytes_each_time_say_nothing_of_what_is_stored():
    digests = (str(number) for number in itertools.count())
    with pytest.raises(StorageUnavailableError, match="altered in different ways") as told:
        read_verified("shard", reader(*itertools.islice(digests, 9)), SteppingClock())
    assert "cannot read shard" in str(told.value)
    assert "8 tries" in str(told.value)
