"""`sightline pretrain --workers 2` as a user starts it, under torchrun."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from pretrain_command import Run
from two_processes import run_in_two_processes

from sightline.data import open_dataset
from sightline.data.stream import ImageStream
from sightline.errors import UserError
from sightline.pretrain import PretrainConfig, pretrain, probe
from sightline.pretrain.batches import TrainingOrder
from sightline.pretrain.head import ProjectionHead
from sightline.pretrain.train import pretrain_from
from sightline.storage import fetch_artifacts
from sightline.storage.artifacts import read_json
from sightline.training import distributed

SETTINGS = ["--preset", "demo", "--image-size", "32", "--epochs", "1", "--workers", "2"]


def start_pretrain(dataset_uri, out, *flags):
    command = [sys.executable, "-m", "sightline", "pretrain", *SETTINGS, *flags]
    addresses = ["--dataset-uri", dataset_uri, "--out-uri", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *addresses], capture_output=True, text=True, env=environment, check=False
    )


def test_two_workers_publish_one_result_and_the_same_bits_twice(labelled_dataset, tmp_path):
    states, losses = [], []
    for name in ("one", "other"):
        run = Run(labelled_dataset, tmp_path / name, workers=2, epochs=2, log_steps=1).wait()
        # Rank 0 alone tells the story, in its order.
        places = re.findall(r"epoch (\d(?:: \d)?/\d)", run.told)
        ends = (": 1/3", ": 2/3", ": 3/3", "/2")
        assert places == [f"{epoch}{end}" for epoch in (1, 2) for end in ends]
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        losses.append((metrics["first_loss_nats"], metrics["final_loss_nats"]))
        path = tmp_path / name / "simclr_backbone.pth"
        states.append(torch.load(path, weights_only=True))
    assert metrics["steps"] == 2 * 36 // 12
    assert losses[0] == losses[1]
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


def pretrain_here(rank):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(16)]
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1, workers=2)
    trained = pretrain(images, config)
    weights = dict(trained.encoder.trunk.named_parameters())
    return {name: weight.detach() for name, weight in weights.items()}, trained.history[0].loss


def test_both_workers_end_with_the_same_weights_and_tell_the_same_loss(tmp_path):
    (weights, loss), (others, other_loss) = run_in_two_processes(pretrain_here, tmp_path)
    assert loss == other_loss
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


def learn_here(dataset_uri, rank):
    """Return the images that this process saw in each step, and the loss of no signal."""
    config = PretrainConfig(
        image_size=32, global_batch_size=8, epochs=2, workers=2, exclude_group_negatives=True
    )
    stream = ImageStream(open_dataset(dataset_uri), batch_size=8, seed=0, cache_bytes=2**20)
    order = TrainingOrder(stream, 2, rank=rank, world_size=distributed.world_size())
    seen = [[image.index for _, image in batch] for batch in order]
    return torch.tensor(seen), pretrain_from(stream, config).chance_loss


def test_two_processes_see_in_each_step_the_images_and_groups_of_one(labelled_dataset, tmp_path):
    work = partial(learn_here, labelled_dataset)
    (one, chance), (other, other_chance) = run_in_two_processes(work, tmp_path)
    assert one.shape == other.shape == (8, 4)
    together = torch.cat([one, other], dim=1)
    alone, expected = work(0)
    assert torch.equal(together.sort(dim=1).values, alone.sort(dim=1).values)
    assert [chance, other_chance] == pytest.approx([expected] * 2)


def look_here(dataset_uri, rank):
    """Return kNN accuracy after the epoch, and how often the processes heard of each other."""
    probe._AT_ONCE = 8
    heard = 0
    any_of = distributed.any_of

    def counted(flags):
        nonlocal heard
        heard += 1
        return any_of(flags)

    distributed.any_of = counted
    dataset = open_dataset(dataset_uri)
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=1, workers=2, knn_epochs=1)
    stream = ImageStream(dataset, batch_size=8, seed=0, cache_bytes=2**20)
    looks = probe.NeighbourProbe(dataset) if rank == 0 else None
    return pretrain_from(stream, config, probe=looks).history[0].knn_accuracy, heard


def test_who_waits_for_a_look_of_rank_0_hears_that_it_has_not_stopped(labelled_dataset, tmp_path):
    found = run_in_two_processes(partial(look_here, labelled_dataset), tmp_path)
    (accuracy, heard), (none, others_heard) = found
    assert accuracy is not None
    assert none is None
    dataset = open_dataset(labelled_dataset)
    looks = sum(math.ceil(len(dataset.split(name).samples) / 8) for name in ("train", "val"))
    # After each, and once when all is done.
    assert heard == others_heard == looks + 1


@pytest.mark.long  # a cluster's tests show it, too
def test_two_workers_read_and_publish_on_s3(labelled_dataset, on_s3, s3_bucket):
    out = f"{s3_bucket}/run/pretrain"
    ended = start_pretrain(on_s3(labelled_dataset), out, "--global-batch-size", "8")
    assert ended.returncode == 0, ended.stderr
    metrics = read_json(fetch_artifacts(out, ["metrics.json"]) / "metrics.json")
    assert (metrics["images"], metrics["steps"]) == (36, 36 // 8)


def test_what_a_worker_refuses_is_one_line_and_exit_code_2(labelled_dataset, tmp_path):
    flags = ["--optimizer", "sgd", "--learning-rate", "1e30", "--global-batch-size", "8"]
    ended = start_pretrain(labelled_dataset, tmp_path / "out", *flags)
    assert ended.returncode == 2
    assert "the loss became nan in step 2 of epoch 1" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def meet_a_nan(where, rank):
    """Return what each process said when one of them meets a NaN in its third step."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(16)]
    config = PretrainConfig(image_size=32, global_batch_size=8, epochs=2, workers=2)
    calls = 0
    forward = ProjectionHead.forward

    def break_once(head, features):
        nonlocal calls
        calls += 1
        result = forward(head, features)
        if rank == 1 and calls == 3:
            if where == "loss":
                return result * float("nan")
            result.register_hook(lambda gradient: gradient * float("nan"))
        return result

    ProjectionHead.forward = break_once
    try:
        pretrain(images, config)
    except UserError as error:
        return str(error)
    return "it ended well"


@pytest.mark.parametrize("where", ["loss", "norm of the gradient"])
def test_a_nan_of_one_worker_stops_all_at_the_same_step(where, tmp_path):
    said = run_in_two_processes(partial(meet_a_nan, where), tmp_path)
    assert said[0] == said[1]
    assert f"the {where} became nan in step 1 of epoch 2" in said[0]
    assert "before it changed the weights" in said[0]
