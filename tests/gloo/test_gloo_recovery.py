"""`sightline pretrain` killed, stopped and started again, as users and clusters do it."""

import contextlib
import csv
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sightline.storage import fetch_artifacts, open_storage

EPOCHS = 8
STEPS = EPOCHS * 4
SETTINGS = {
    "preset": "demo",
    "image_size": 32,
    "global_batch_size": 8,
    "epochs": EPOCHS,
    "precision": "float32",
    # Longer than a test: an epoch's end and SIGTERM alone save.
    "checkpoint_minutes": 60,
}


class Run:
    """One process group of `sightline pretrain`; what it prints is kept."""

    def __init__(self, dataset_uri, out, workers=1, labels_uri="", variables=None, **settings):
        self.out = str(out)
        self.log = Path(os.environ["PYTEST_LOGS"], f"{random.getrandbits(64):x}.log")
        command = [sys.executable, "-m", "sightline", "pretrain", "--dataset-uri", dataset_uri]
        if labels_uri:
            command += ["--labels-uri", labels_uri]
        config = json.dumps({**SETTINGS, "workers": workers, **settings})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--out-uri", self.out, "--config", config],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    **{"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                    **(variables or {}),
                },
                start_new_session=True,
            )

    @property
    def told(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def complaints(self):
        """What it printed apart from the story of its training."""
        return [line for line in self.told.splitlines() if not line.startswith("pretrain: ")]

    def wait(self, code=0):
        assert self.process.wait(timeout=400) == code, self.told
        return self

    def wait_for(self, text, times=1):
        """Wait until it has printed something that often."""
        deadline = time.monotonic() + 300
        while self.told.count(text) < times:
            assert self.process.poll() is None, self.told
            assert time.monotonic() < deadline, self.told
            time.sleep(0.005)
        return self

    def workers(self):
        """Return the numbers of the processes that train, in no order."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode().split("\0")
                if self.out in command and "sightline.training.torchrun" not in command:
                    found.append(int(folder.name))
        return [number for number in found if number != self.process.pid]

    def kill_all(self):
        """Kill the whole pod: every process that the command started, and itself."""
        for number in [*self.workers(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_LOGS", str(tmp_path))


@pytest.fixture(scope="module")
def uninterrupted(labelled_dataset, tmp_path_factory):
    """Return `result(workers, **settings)`: what a run that nothing disturbs leaves, made once."""

    @functools.cache
    def result(workers, **settings):
        folder = tmp_path_factory.mktemp("uninterrupted")
        os.environ["PYTEST_LOGS"] = str(folder)
        Run(labelled_dataset, folder / "out", workers, **settings).wait()
        return result_of(folder / "out")

    return result


def losses_in(folder):
    with (folder / "steps.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def result_of(out):
    """Return what must be the same to the last bit: the weights, and the loss of every step."""
    folder = fetch_artifacts(str(out))
    losses = losses_in(folder)
    assert len(losses) == STEPS
    return {"weights": (folder / "simclr_backbone.pth").read_bytes(), "losses": losses}


def require_nothing_left(out):
    keys = [entry.key for entry in open_storage(str(out)).list()]
    assert not [key for key in keys if key.startswith("checkpoints")]


def test_five_killed_ranks_cost_five_restarts_and_change_no_bit(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(2)
    draw = random.Random(0)
    run = Run(labelled_dataset, tmp_path / "out", workers=2, restarts=5)
    for kills in range(5):
        # Wherever the last kill put it back to, it is training anew when this comes.
        run.wait_for("going on from checkpoint step-", times=kills)
        run.wait_for(f"epoch {kills + 2}/")
        time.sleep(draw.uniform(0, 0.3))
        os.kill(draw.choice(sorted(run.workers())), signal.SIGKILL)
        run.wait_for(f"starting all again ({4 - kills} restart")
    run.wait()
    assert run.told.count("going on from checkpoint step-") == 5
    killed = "sightline pretrain: the worker of rank [01] was killed by SIGKILL, "
    assert [bool(re.match(killed, line)) for line in run.complaints] == [True] * 5, run.told
    assert result_of(tmp_path / "out") == expected
    require_nothing_left(tmp_path / "out")


def children_of(parents):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(folder.name))
    return found


def drawing_for(training):
    """Return the numbers of the processes that draw views for those that train."""
    servers = [
        number
        for number in children_of(training)
        if b"multiprocessing.forkserver" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]
    return children_of(servers)


def test_a_killed_process_that_draws_views_costs_a_restart_and_changes_no_bit(
    labelled_dataset, tmp_path, uninterrupted
):
    run = Run(labelled_dataset, tmp_path / "out", workers=2, loader_processes=1)
    run.wait_for("epoch 2/")
    os.kill(drawing_for(run.workers())[0], signal.SIGKILL)
    run.wait()
    assert "a process that draws views ended (DataLoader worker" in run.told
    assert "starting all again (2 restarts left after this)" in run.told
    assert result_of(tmp_path / "out") == uninterrupted(2)


def test_processes_that_draw_views_end_with_the_one_that_trains(labelled_dataset, tmp_path):
    run = Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait_for("epoch 2/")
    drawing = drawing_for([run.process.pid])
    assert len(drawing) == 2
    run.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in drawing):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_told_to_all_processes_at_once_is_no_loss_of_those_that_draw(
    labelled_dataset, tmp_path, uninterrupted, number
):
    run = Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait_for("epoch 2/")
    os.killpg(run.process.pid, number)
    run.wait(75 if number == signal.SIGTERM else 130)
    assert "process that draws" not in run.told
    assert "Traceback" not in run.told
    Run(labelled_dataset, tmp_path / "out", loader_processes=2).wait()
    assert result_of(tmp_path / "out") == uninterrupted(1)


def test_a_killed_pod_goes_on_elsewhere_from_s3_alone(
    labelled_dataset, on_s3, s3_bucket, uninterrupted
):
    expected = uninterrupted(2)
    dataset_uri, out = on_s3(labelled_dataset), f"{s3_bucket}/run/pretrain"
    first = Run(dataset_uri, out, workers=2).wait_for("epoch 3/")
    first.kill_all()
    second = Run(dataset_uri, out, workers=2).wait()
    assert "going on from checkpoint step-" in second.told
    assert "epoch 1/" not in second.told
    assert result_of(out) == expected
    require_nothing_left(out)


def test_batches_in_passes_go_on_with_the_same_bits(labelled_dataset, tmp_path, uninterrupted):
    passes = {"lanes": 2, "images_per_pass": 4}
    expected = uninterrupted(2, **passes)
    Run(labelled_dataset, tmp_path / "out", workers=2, **passes).wait_for("epoch 3/").kill_all()
    again = Run(labelled_dataset, tmp_path / "out", workers=2, **passes).wait()
    assert "going on from checkpoint step-" in again.told
    assert result_of(tmp_path / "out") == expected


@pytest.mark.parametrize(("workers", "busy"), [(1, False), (2, False), (2, True)])
def test_sigterm_saves_and_ends_with_75_and_no_step_is_computed_again(
    workers, busy, labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(workers)
    # Busy: always on the way to save a step, or to look at labelled images.
    settings = {"checkpoint_minutes": 1e-4, "knn_epochs": 1} if busy else {}
    labels = labelled_dataset if busy else ""
    run = Run(labelled_dataset, tmp_path / "out", workers, labels, **settings)
    run.wait_for("epoch 2/")
    run.process.terminate()
    time.sleep(0.05)
    run.process.terminate()  # a second one changes nothing
    run.wait(code=75)
    stopped = int(run.told.rpartition("stopped after step ")[2].partition(",")[0])
    assert f"step {stopped}, which is saved: the same command goes on from there" in run.told
    again = Run(labelled_dataset, tmp_path / "out", workers).wait()
    assert f"going on from checkpoint step-{stopped:012d}" in again.told
    assert result_of(tmp_path / "out") == expected
    require_nothing_left(tmp_path / "out")


def test_workers_that_need_more_than_half_a_minute_to_save_are_given_it(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(2)
    run = Run(labelled_dataset, tmp_path / "out", workers=2).wait_for("epoch 2/")
    workers = run.workers()
    for number in workers:
        os.kill(number, signal.SIGSTOP)
    run.process.terminate()
    time.sleep(32)  # torchrun's patience, if nobody asks for more, is 30 s
    for number in workers:
        os.kill(number, signal.SIGCONT)
    run.wait(code=75)
    Run(labelled_dataset, tmp_path / "out", workers=2).wait()
    assert result_of(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("number", "send", "moment"),
    [
        (signal.SIGTERM, os.kill, "before training"),
        (signal.SIGTERM, os.killpg, "before training"),
        (signal.SIGTERM, os.killpg, "training"),
        (signal.SIGINT, os.killpg, "before training"),
        (signal.SIGINT, os.killpg, "training"),
    ],
)
def test_several_workers_that_are_stopped_end_with_one_line(
    number, send, moment, labelled_dataset, tmp_path
):
    code, words = {
        signal.SIGTERM: (75, "asked to end, "),
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


def test_workers_end_with_the_one_that_started_them(labelled_dataset, tmp_path):
    run = Run(labelled_dataset, tmp_path / "out", workers=2, epochs=1000).wait_for("epoch 1/")
    run.process.kill()
    deadline = time.monotonic() + 60
    while run.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_lines_of_several_workers_come_in_the_order_of_the_training(labelled_dataset, tmp_path):
    run = Run(labelled_dataset, tmp_path / "out", workers=2, epochs=3, log_steps=1).wait()
    places = re.findall(r"epoch (\d(?:: \d)?/\d)", run.told)
    ends = (": 1/4", ": 2/4", ": 3/4", ": 4/4", "/3")
    assert places == [f"{epoch}{end}" for epoch in (1, 2, 3) for end in ends]


def test_a_defect_of_one_worker_keeps_its_traceback_and_is_the_only_one(labelled_dataset, tmp_path):
    hook = "import math, os\nif os.environ.get('RANK') == '1': math.fsum = lambda losses: 1 / 0\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = Run(labelled_dataset, tmp_path / "out", workers=2, variables={"PYTHONPATH": path}).wait(1)
    assert run.told.count("Traceback") == 1
    assert "ZeroDivisionError: division by zero" in run.complaints[-3]
    assert "after step 4" in run.complaints[-2]
    assert "(torchrun ended with 1): ZeroDivisionError: division" in run.complaints[-1]


def test_sigterm_before_the_first_step_loses_nothing(labelled_dataset, tmp_path, uninterrupted):
    expected = uninterrupted(1)
    run = Run(labelled_dataset, tmp_path / "out").wait_for("pretrain: SimCLR on")
    run.process.terminate()
    # Before the signal is taken as a wish, it ends the process as it always does.
    assert run.process.wait(timeout=300) in (75, -signal.SIGTERM)
    Run(labelled_dataset, tmp_path / "out").wait()
    assert result_of(tmp_path / "out") == expected


def test_another_number_of_ranks_goes_on_with_the_same_images(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(2)["losses"]
    Run(labelled_dataset, tmp_path / "out", workers=2).wait_for("epoch 3/").kill_all()
    again = Run(labelled_dataset, tmp_path / "out", workers=1).wait()
    assert "going on from checkpoint step-" in again.told
    found = result_of(tmp_path / "out")["losses"]
    start = int(again.told.partition("checkpoint step-")[2].partition("-")[0])
    assert found[:start] == expected[:start]
    # Sums of float32 in another order: rounding, which training then magnifies step by step.
    assert found[start : start + 4] == pytest.approx(expected[start : start + 4], rel=1e-5)
    assert found == pytest.approx(expected, rel=0.05)


def test_another_number_of_ranks_differs_by_rounding_alone(labelled_dataset, tmp_path):
    # Adam's first steps magnify rounding most: by a factor of 1,000 within two of them.
    settings = {"preset": "seed", "blur_kernel_px": 5, "epochs": 4}
    hook = "import torch\ntorch.set_default_dtype(torch.float64)\n"
    settings["variables"] = hooked(
        tmp_path / "hook", f"{hook}torch.Tensor.float = torch.Tensor.double\n"
    )
    Run(labelled_dataset, tmp_path / "one", **settings).wait()
    run = Run(labelled_dataset, tmp_path / "out", workers=2, **settings)
    run.wait_for("epoch 3/").kill_all()
    again = Run(labelled_dataset, tmp_path / "out", workers=1, **settings).wait()
    assert "going on from checkpoint step-" in again.told
    expected, found = (losses_in(tmp_path / name) for name in ("one", "out"))
    assert len(found) == 16
    # float32 would give a relative difference of 1e-4 at once, and 1e-2 in the end.
    assert found == pytest.approx(expected, rel=1e-10)


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


def hooked(folder, hook):
    """Return variables of an environment in which every Python begins with some lines."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(hook)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def clock_wrong_by(days, folder):
    """Return variables of an environment in which Python's clock is wrong."""
    hook = f"import time\nright = time.time\ntime.time = lambda: right() + {days * 86400}\n"
    return hooked(folder / str(days), hook)


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


def test_a_rank_that_hangs_is_noticed_and_all_start_again(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(2)
    patience = {"stall_minutes": 0.25}
    run = Run(labelled_dataset, tmp_path / "out", workers=2, **patience).wait_for("epoch 2/")
    hung = run.workers()[0]
    os.kill(hung, signal.SIGSTOP)
    rank = re.search(rb"\0RANK=(\d)", Path(f"/proc/{hung}/environ").read_bytes())[1].decode()
    run.wait()
    (told,) = run.complaints
    assert f": the worker of rank {rank} did not answer for 15 s after step " in told
    assert "raise stall_minutes); starting all again (2 restarts left after this)" in told
    assert result_of(tmp_path / "out") == expected


def test_a_checkpoint_of_other_settings_is_refused_by_name(labelled_dataset, tmp_path):
    Run(labelled_dataset, tmp_path / "out").wait_for("epoch 2/").kill_all()
    refused = Run(labelled_dataset, tmp_path / "out", seed=1).wait(code=2)
    assert "belongs to a run with other settings (seed 0 there and 1 here)" in refused.told


def test_the_last_checkpoint_damaged_costs_an_epoch_and_no_bit(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(1)
    Run(labelled_dataset, tmp_path / "out").wait_for("epoch 4/").kill_all()
    checkpoints = tmp_path / "out" / "checkpoints"
    newest = json.loads((checkpoints / "latest.json").read_text())["kept"][0]
    (checkpoints / f"{newest}.pt").write_bytes(b"<html>")
    again = Run(labelled_dataset, tmp_path / "out").wait()
    assert f"{newest} is damaged" in again.told
    assert result_of(tmp_path / "out") == expected
