"""`sightline pretrain` killed and started again, as users and clusters do it."""

import json
import os
import random
import re
import signal
import time

import pytest
from pretrain_command import (
    STEPS_PER_EPOCH,
    Run,
    drawing_for,
    hooked,
    losses_in,
    require_nothing_left,
    result_of,
)

# Each wait has a limit of its own; on a busy machine a test of many starts takes long.
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
def test_killed_ranks_cost_as_many_restarts_and_change_no_bit(
    labelled_dataset, tmp_path, uninterrupted, times
):
    expected = uninterrupted(2)
    draw = random.Random(0)
    run = Run(labelled_dataset, tmp_path / "out", workers=2, restarts=times)
    for kills in range(times):
        # Wherever the last kill put it back to, it is training anew when this comes.
        run.wait_for("going on from checkpoint step-", times=kills)
        run.wait_for(f"epoch {kills + 2}/")
        time.sleep(draw.uniform(0, 0.3))
        os.kill(draw.choice(sorted(run.workers())), signal.SIGKILL)
        run.wait_for(f"starting all again ({times - 1 - kills} restart")
    run.wait()
    assert run.told.count("going on from checkpoint step-") == times
    killed = "sightline pretrain: the worker of rank [01] was killed by SIGKILL, "
    assert [bool(re.match(killed, line)) for line in run.complaints] == [True] * times, run.told
    assert result_of(tmp_path / "out") == expected
    require_nothing_left(tmp_path / "out")


@pytest.mark.long
def test_a_rank_alone_that_gets_sigint_is_a_lost_one(labelled_dataset, tmp_path, uninterrupted):
    run = Run(labelled_dataset, tmp_path / "out", workers=2).wait_for("epoch 2/")
    os.kill(run.rank(1), signal.SIGINT)
    run.wait()
    (told,) = run.complaints
    assert re.search("the worker of rank 1 .*; starting all again", told)
    assert result_of(tmp_path / "out") == uninterrupted(2)


@pytest.mark.long
def test_a_killed_process_that_draws_views_costs_a_restart_and_changes_no_bit(
    labelled_dataset, tmp_path, uninterrupted
):
    passes = {"lanes": 2, "images_per_pass": 4}  # which change as little
    run = Run(labelled_dataset, tmp_path / "out", workers=2, loader_processes=1, **passes)
    run.wait_for("epoch 2/")
    os.kill(drawing_for(run.workers())[0], signal.SIGKILL)
    run.wait()
    assert "a process that draws views ended (DataLoader worker" in run.told
    assert "starting all again (2 restarts left after this)" in run.told
    assert result_of(tmp_path / "out") == uninterrupted(2, **passes)


@pytest.mark.long  # a cluster's tests show it, too
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


@pytest.mark.long
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
    end = start + STEPS_PER_EPOCH
    assert found[start:end] == pytest.approx(expected[start:end], rel=1e-5)
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
    assert len(found) == 4 * STEPS_PER_EPOCH
    # float32 would give a relative difference of 1e-4 at once, and 1e-2 in the end.
    assert found == pytest.approx(expected, rel=1e-10)


def test_a_rank_that_hangs_is_noticed_and_all_start_again(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(2)
    patience = {"stall_minutes": 0.25}
    run = Run(labelled_dataset, tmp_path / "out", workers=2, **patience).wait_for("epoch 2/")
    os.kill(run.rank(1), signal.SIGSTOP)
    run.wait()
    (told,) = run.complaints
    assert ": the worker of rank 1 did not answer for 15 s after step " in told
    assert "raise stall_minutes); starting all again (2 restarts left after this)" in told
    assert result_of(tmp_path / "out") == expected


def test_other_settings_are_refused_by_name_and_a_damaged_checkpoint_costs_an_epoch(
    labelled_dataset, tmp_path, uninterrupted
):
    expected = uninterrupted(1)
    Run(labelled_dataset, tmp_path / "out").wait_for("epoch 4/").kill_all()
    checkpoints = tmp_path / "out" / "checkpoints"
    newest = json.loads((checkpoints / "latest.json").read_text())["kept"][0]
    (checkpoints / f"{newest}.pt").write_bytes(b"<html>")
    refused = Run(labelled_dataset, tmp_path / "out", seed=1).wait(code=2)
    assert "belongs to a run with other settings (seed 0 there and 1 here)" in refused.told
    again = Run(labelled_dataset, tmp_path / "out").wait()
    assert f"{newest} is damaged" in again.told
    assert result_of(tmp_path / "out") == expected
