import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.telemetry import (
    announce,
    count,
    format_duration,
    print_answer,
    print_line,
    progress,
    show_step,
    track,
)


class Clock:
    """A clock that a test moves on by hand, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def go_through(items, clock, seconds_each):
    seen = []
    for item in items:
        seen.append(item)
        clock.now += seconds_each
    return seen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (21, "21 epochs")]
)
def test_one_thing_is_singular(number, text):
    assert count(number, "epoch") == text


def test_an_announcement_is_one_line_on_stdout(capsys):
    announce("pretrain", "36 images")
    assert capsys.readouterr() == ("pretrain: 36 images\n", "")


def test_a_log_gets_a_line_each_ten_seconds_with_the_time_left(clock, capsys):
    assert go_through(track(range(10), "reading"), clock, 4.0) == list(range(10))
    # 3 items after 12 s, 6 after 24 s, 9 after 36 s: 4 s each, so 28, 16 and 4 s are left.
    assert capsys.readouterr() == (
        "",
        "reading: 3/10, about 28 s left\n"
        "reading: 6/10, about 16 s left\n"
        "reading: 9/10, about 4 s left\n",
    )


def test_what_is_over_before_ten_seconds_leaves_no_line_in_a_log(clock, capsys):
    assert go_through(track("abc", "reading"), clock, 3.0) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_stream_of_unknown_length_is_counted(clock, capsys):
    go_through(track(iter("ab"), "reading"), clock, 12.0)
    assert capsys.readouterr().err == "reading: 1\nreading: 2\n"


def test_a_stream_whose_total_is_told_has_time_left(clock, capsys):
    go_through(track(iter("ab"), "reading", 2), clock, 12.0)
    assert capsys.readouterr().err == (
        "reading: 1/2, about 12 s left\nreading: 2/2, about 0 s left\n"
    )


def test_items_are_taken_one_at_a_time():
    taken = []
    tracked = track((taken.append(n) or n for n in range(5)), "reading")
    assert [next(tracked), next(tracked)] == [0, 1]
    assert taken == [0, 1]


def test_a_terminal_shows_one_moving_line_and_closes_it(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    go_through(track(range(2), "reading"), clock, 1.0)
    assert terminal.getvalue() == (
        "\r\x1b[Kreading: 1/2, about 1 s left"
        "\r\x1b[Kreading: 2/2, about 0 s left"
        "\r\x1b[Kreading: 2 in 2 s\n"
    )


def test_nothing_to_go_through_shows_nothing(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    assert list(track([], "reading")) == []
    assert terminal.getvalue() == ""


def show_steps(monkeypatch, clock, columns, details="loss 3.178, rank 14"):
    """Return what a terminal is sent for each of two steps."""
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_last_line", None)
    monkeypatch.setenv("COLUMNS", str(columns))
    for step in (1, 2, 3):  # the clock of lines begins with the first
        clock.now += 1
        show_step("pretrain: epoch 1", step, 3, 3.0 - step, details)
    return terminal.getvalue().split("\r\x1b[J")[1:]


def test_a_bar_fills_above_the_numbers_and_the_cursor_goes_back_to_it(clock, monkeypatch):
    assert show_steps(monkeypatch, clock, 120) == [
        "pretrain: epoch 1 " + "━" * 20 + " " * 10 + " 2/3, about 1 s left\n"
        "loss 3.178, rank 14\x1b[A\r",
        "pretrain: epoch 1 " + "━" * 30 + " 3/3, about 0 s left\nloss 3.178, rank 14\n",
    ]


def test_every_number_of_a_step_has_room_on_a_terminal_of_80_columns(clock, monkeypatch):
    details = "loss 4.1429, lr 1.00e-01, 12345 images/s, 100% waiting, std 0.98, rank 128"
    (_, last) = show_steps(monkeypatch, clock, 80, details)
    assert last == "pretrain: epoch 1 " + "━" * 30 + f" 3/3, about 0 s left\n{details}\n"


def test_a_narrow_terminal_shortens_the_bar_and_cuts_the_last_numbers(clock, monkeypatch):
    (_, last) = show_steps(monkeypatch, clock, 45)
    assert last == "pretrain: epoch 1 ━━━━━━ 3/3, about 0 s left\nloss 3.178, rank 14\n"
    (_, last) = show_steps(monkeypatch, clock, 16)
    assert last == "pretrain: epoch\nloss 3.178, ran\n"


CHATTER = """
import sys
from sightline.telemetry import announce

sys.stdin.readline()
announce("step", "one")
announce("step", "two")
sys.exit(3)
"""


@pytest.mark.parametrize("is_full", [True, False])
def test_work_goes_on_where_nobody_gets_its_lines_and_says_so_once(is_full):
    receiving, sending = os.pipe()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", CHATTER]
        stdout = full if is_full else sending
        pipe = subprocess.PIPE
        chatter = subprocess.Popen(command, stdin=pipe, stdout=stdout, stderr=pipe, text=True)
    os.close(sending)
    os.close(receiving)  # as head does
    _, told = chatter.communicate("\n", timeout=60)
    assert chatter.returncode == 3
    why = "No space left on device" if is_full else "Broken pipe"
    assert told == f"sightline: nobody gets this output any more ({why}); the work goes on\n"


UNWATCHED = """
import sys
from sightline.telemetry import print_line, show_step

sys.stdin.readline()
show_step("step", 1, 2, 0, "loss 1", log_steps=1)
print_line("step: a warning", sys.stderr)
print("done")
"""


def test_training_goes_on_where_nobody_gets_its_progress():
    receiving, sending = os.pipe()
    command = [sys.executable, "-c", UNWATCHED]
    pipe = subprocess.PIPE
    chatter = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=sending, text=True)
    os.close(sending)
    os.close(receiving)  # as head does
    assert chatter.communicate("\n", timeout=60)[0] == "done\n"
    assert chatter.returncode == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_line_for_a_stream_that_was_never_there_is_dropped(stream, monkeypatch):
    monkeypatch.setattr(sys, stream, None)
    announce("step", "one")
    show_step("step", 1, 1, 0, "loss 1", log_steps=1)


@pytest.mark.parametrize("tell", [print_line, print_answer])
def test_letters_that_the_output_has_not_are_written_as_python_writes_them_on_stderr(
    tell, monkeypatch
):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    tell("for Jürgen")
    assert written.getvalue() == b"for J\\xfcrgen\n"
