"""`sightline pretrain` asked to end, and started twice: what it tells, and what goes on."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from pretrain_command import EPOCHS, Run, drawing_for, hooked, require_nothing_left, result_of

# Each wait has a limit of its own; on a busy machine a test of many starts takes long.
pytestmark = pytest.mark.timeout(1800)


def clock_wrong_by(days, folder):
    """Return variables of an environment in which Python's clock is wrong."""
    hook = f"import time\nright = time.time\ntime.time = lambda: right() + {days * 86400}\n"
    return hooked(folder / str(days), hook)


def test_processes_that_draw_views_end_with_the_one_that_trains(labelled_dataset, tmp_path):
    run = Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait_for("epoch 2/")
    drawing = drawing_for([run.process.pid])
    assert len(drawing) == 2
    run.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in drawing):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_end_told_to_all_processes_at_once_is_no_loss_of_those_that_draw(
    labelled_dataset, tmp_path, uninterrupted, number
):
    run = Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait_for("epoch 2/")
    os.killpg(run.process.pid, number)
    run.wait(130 if number == signal.SIGINT else 75)
    assert len(run.complaints) == 1
    assert "process that draws" not in run.told
    assert "Traceback" not in run.told
    Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait()
    assert result_of(tmp_path / "out") == uninterrupted(1)


@pytest.mark.parametrize(
    ("workers", "busy", "slow"),
    [
        (1, 0, 0),
        pytest.param(2, 0, 1, marks=pytest.mark.long),
        pytest.param(2, 1, 0, marks=pytest.mark.long),
    ],
)
def test_sigterm_saves_and_ends_with_75_and_no_step_is_computed_again(
    workers, busy, slow, labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(workers)
    # Busy: always on the way to save a step, or to look at labelled images.
    settings = {"checkpoint_minutes": 1e-4, "knn_epochs": 1} if busy else {}
    labels = labelled_dataset if busy else ""
    run = Run(labelled_dataset, tmp_path / "out", workers, labels, **settings)
    run.wait_for("epoch 2/")
    if slow:
        for number in run.workers():
            os.kill(number, signal.SIGSTOP)
    run.process.terminate()
    if slow:
        time.sleep(32)  # torchrun's patience, if nobody asks for more, is 30 s
        for number in run.workers():
            os.kill(number, signal.SIGCONT)
    while run.process.poll() is None:
        run.process.terminate()  # which changes nothing
        time.sleep(0.01)
    run.wait(code=75)
    stopped = int(run.told.rpartition("stopped after step ")[2].partition(",")[0])
    assert f"step {stopped}, which is saved: the same command goes on from there" in run.told
    again = Run(labelled_dataset, tmp_path / "out", workers).wait()
    assert f"going on from checkpoint step-{stopped:012d}" in again.told
    assert result_of(tmp_path / "out") == expected
    require_nothing_left(tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "send", "moment"),
    [
        (signal.SIGTERM, os.kill, "before training"),
        (signal.SIGTERM, os.killpg, "before training"),
        (signal.SIGTERM, os.killpg, "training"),
        pytest.param(signal.SIGHUP, os.killpg, "training", marks=pytest.mark.long),
        (signal.SIGINT, os.killpg, "before training"),
        pytest.param(signal.SIGINT, os.killpg, "training", marks=pytest.mark.long),
    ],
)
def test_several_workers_that_are_stopped_end_with_one_line(
    number, send, moment, labelled_dataset, tmp_path
):
    code, words = {
        signal.SIGTERM: (75, "asked to end, "),
        signal.SIGHUP: (75, "asked to end, so training stopped after step "),
        signal.SIGINT: (130, "stopped from the keyboard; nothing unfinished was published"),
    }[number]
    run = Run(labelled_dataset, tmp_path / "out", workers=2, epochs=1000)
    if moment == "training":
        run.wait_for("epoch 1/")
    while len(run.workers()) < 2:
        time.sleep(0.01)
    send(run.process.pid, number)
    run.wait(code)
    (line,) = run.complaints
    assert line.startswith(f"sightline pretrain: {words}")
    assert not run.workers()


@pytest.mark.long
def test_sigterm_while_a_rank_hangs_ends_all_and_says_what_is_saved(
    labelled_dataset, tmp_path, uninterrupted
):
    patience = {"stall_minutes": 0.25}
    run = Run(labelled_dataset, tmp_path / "out", workers=2, **patience).wait_for("epoch 2/")
    os.kill(run.rank(1), signal.SIGSTOP)
    run.process.terminate()
    run.wait(75)
    newest = json.loads((tmp_path / "out/checkpoints/latest.json").read_text())["kept"][0]
    (line,) = run.complaints
    assert "without another checkpoint, for the worker of rank 1 did not answer for 15 s" in line
    assert f"with checkpoint {newest} saved" in line
    assert not run.workers()
    again = Run(labelled_dataset, tmp_path / "out", workers=2).wait()
    assert f"going on from checkpoint {newest}" in again.told
    assert result_of(tmp_path / "out") == uninterrupted(2)


def test_workers_end_with_the_one_that_started_them(labelled_dataset, tmp_path):
    run = Run(labelled_dataset, tmp_path / "out", workers=2, epochs=1000).wait_for("epoch 1/")
    run.process.kill()
    deadline = time.monotonic() + 60
    while run.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_defect_of_one_worker_keeps_its_traceback_and_is_the_only_one(labelled_dataset, tmp_path):
    hook = "import math, os\nif os.environ.get('RANK') == '1': math.fsum = lambda losses: 1 / 0\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = Run(labelled_dataset, tmp_path / "out", workers=2, variables={"PYTHONPATH": path}).wait(1)
    assert run.told.count("Traceback") == 1
    assert "ZeroDivisionError: division by zero" in run.complaints[-3]
    assert "after step 3" in run.complaints[-2]
    assert "(torchrun ended with 1): ZeroDivisionError: division" in run.complaints[-1]


@pytest.mark.long
def test_sigterm_before_the_first_step_loses_nothing(labelled_dataset, tmp_path, uninterrupted):
    expected = uninterrupted(1)
    run = Run(labelled_dataset, tmp_path / "out").wait_for("pretrain: SimCLR on")
    run.process.terminate()
    # Before the signal is taken as a wish, it ends the process as it always does.
    assert run.process.wait(timeout=300) in (75, -signal.SIGTERM)
    Run(labelled_dataset, tmp_path / "out").wait()
    assert result_of(tmp_path / "out") == expected


def test_of_two_with_the_same_run_one_trains_and_the_other_says_so(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(1)
    slow = {"checkpoint_minutes": 0.0001}
    one = Run(labelled_dataset, tmp_path / "out", **slow).wait_for("pretrain: SimCLR on")
    # As if it ran in another pod, where nobody can ask whether it lives.
    claim = tmp_path / "out" / "checkpoints" / "claim.json"
    while not claim.exists():
        time.sleep(0.01)
    os.kill(one.process.pid, signal.SIGSTOP)
    other = Run(labelled_dataset, tmp_path / "out", **slow)
    other.wait_for("has begun this run; looking for up to 30 s")
    os.kill(one.process.pid, signal.SIGCONT)
    one.wait()
    other.wait()
    trained = [run for run in (one, other) if f"epoch {EPOCHS}/{EPOCHS}" in run.told]
    assert trained == [one]
    says = ("trains this run already", "holds the finished result of these very settings")
    assert any(text in other.told for text in says)
    assert result_of(tmp_path / "out") == expected
    # And a third, too late: nothing is left to do, which is no error.
    late = Run(labelled_dataset, tmp_path / "out").wait()
    assert "holds the finished result of these very settings" in late.told


@pytest.mark.long
def test_clocks_that_are_wrong_by_a_day_change_no_order_name_or_bit(
    labelled_dataset, tmp_path, uninterrupted
):
    early, late = (clock_wrong_by(days, tmp_path) for days in (-1, 1))
    one = Run(labelled_dataset, tmp_path / "out", variables=late)
    one.wait_for("epoch 3/")
    os.kill(one.process.pid, signal.SIGSTOP)
    latest = json.loads((tmp_path / "out" / "checkpoints" / "latest.json").read_text())
    again = Run(labelled_dataset, tmp_path / "out", variables=early)
    again.wait_for("has begun this run; looking for up to 30 s")
    one.process.kill()
    one.process.wait()
    again.wait()
    (start,) = re.findall("going on from checkpoint (step-[0-9]+)-", again.told)
    assert start == max(latest["kept"]).rpartition("-")[0]
    assert result_of(tmp_path / "out") == uninterrupted(1)
