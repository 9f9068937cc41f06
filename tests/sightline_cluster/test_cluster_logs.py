"""A pod's log: each line once, in its order, whatever a node's clock and connections do."""

import pytest

from sightline_cluster.api import connect
from sightline_cluster.logs import PodLog


@pytest.fixture
def follow(api, monkeypatch):
    """Return a function that tells a log to its end; each part is there at a new connection."""

    monkeypatch.setattr("sightline_cluster.logs.time.sleep", lambda _: None)

    def tell(*parts, tail=None, is_there=lambda: True):
        told, left = [], list(parts)

        def has_ended():
            api.logs["w-0"] = left.pop(0)
            return not left

        log = PodLog(connect(), "w-0", told.append, tail, has_ended, is_there)
        log.finish(20)
        assert not left
        return [line.removeprefix("w-0 | ") for line in told], log

    return tell


def texts(lines):
    return [text for _, text in lines]


CLOCK_SET_BACK = [
    ("2026-11-26T10:00:05.000000000Z", "one"),
    ("2026-11-26T10:00:06.500000000Z", "two"),
    ("2026-11-26T09:59:31.000000000Z", "three"),
    ("2026-11-26T09:59:31.000000001Z", "four"),
    ("2026-11-26T10:00:06.500000000Z", "five"),
]
END_OF_SUMMER_TIME = [
    ("2026-10-25T02:59:59.900000000+02:00", "one"),
    ("2026-10-25T02:00:00.000000000+01:00", "two"),
    ("2026-10-25T02:00:00.1+01:00", "three"),
    ("2026-10-25T02:00:00.02+01:00", "four"),
    ("2026-10-25T01:00:01Z", "five"),
]


@pytest.mark.parametrize("lines", [CLOCK_SET_BACK, END_OF_SUMMER_TIME])
def test_every_line_is_told_once_whatever_its_stamp(follow, lines):
    assert follow(lines)[0] == texts(lines)
    for told_before in range(1, len(lines)):
        assert follow(lines[:told_before], lines, lines)[0] == texts(lines)


def test_complaint_after_the_clock_was_set_back_is_heard(follow):
    said = ("2026-11-26T09:00:00.000000000Z", "sightline pretrain: out of disk")
    assert follow([*CLOCK_SET_BACK[:2], said])[1].complaint == "out of disk"


def test_new_connection_brings_nothing_older_than_the_lines_it_began_with(follow):
    lines = [(f"2026-11-26T10:00:05.{i:09d}Z", str(i)) for i in range(9)]
    assert follow(lines[:6], lines, tail=2)[0] == ["4", "5", "6", "7", "8"]


def test_log_that_was_rotated_away_is_followed_on(follow):
    lines = [(f"2026-11-26T10:00:0{i}.000000000Z", str(i)) for i in range(9)]
    assert follow(lines[:4], lines[6:])[0] == ["0", "1", "2", "3", "6", "7", "8"]


def test_words_of_the_kubelets_own_carry_no_stamp_and_are_told_once(follow, api):
    lines = CLOCK_SET_BACK[:2]
    # The stand-in sends them as the kubelet does, in the log's place.
    no_log = b"unable to retrieve container logs for containerd://0a1b\n"
    answers = [(200, no_log), (200, no_log)]
    api.refuse = lambda *_: answers.pop() if answers else None
    told, _ = follow(lines, lines, lines)
    assert told == [no_log.decode().strip(), *texts(lines)]


def test_lines_of_the_pod_that_has_the_name_by_now_are_not_those_of_the_one_before(follow):
    answers = iter([True, False])
    old, new = CLOCK_SET_BACK[:2], [("2026-11-26T10:00:30Z", "of another pod")]
    assert follow(old, new, is_there=lambda: next(answers))[0] == texts(old)
