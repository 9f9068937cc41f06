import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sightline.data.stream import ArrayStream
from sightline.errors import UserError
from sightline.pretrain import PretrainConfig, pretrain, train
from sightline.pretrain.train import pretrain_from
from sightline.training.preemption import WorkersLostError
from sightline.training.recovery import recovery_of


def test_one_process_gives_the_same_bits_twice(noise_images, tiny_config, monkeypatch):
    monkeypatch.setattr(train, "pick_device", lambda: torch.device("cpu"))  # a GPU promises less
    one, other = (pretrain(noise_images, tiny_config) for _ in range(2))
    assert [r.loss for r in one.history] == [r.loss for r in other.history]
    for name, tensor in one.encoder.trunk.state_dict().items():
        assert torch.equal(tensor, other.encoder.trunk.state_dict()[name]), name


def test_another_seed_gives_another_encoder(noise_images, tiny_config):
    one = pretrain(noise_images, tiny_config)
    other = pretrain(noise_images, tiny_config.model_copy(update={"seed": 1}))
    assert not torch.equal(one.encoder.trunk.conv1.weight, other.encoder.trunk.conv1.weight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"augmentation": "exact"}, 1e-2),
        ({"augmentation": "fast", "loader_processes": 2}, 3e-2),
        ({"precision": "bfloat16", "compile_network": True}, 5e-2),
    ],
)
def test_a_gpu_learns_what_a_cpu_learns(
    settings, tolerance, noise_images, tiny_settings, monkeypatch
):
    # Rounding alone would soon part the two where a step is large or the loss is steep.
    smooth = {"optimizer": "sgd", "learning_rate": 1e-4, "temperature": 0.5}
    config = PretrainConfig.from_values({**tiny_settings, **smooth, **settings})
    on_gpu = pretrain(noise_images, config)
    monkeypatch.setattr(train, "pick_device", lambda: torch.device("cpu"))
    assert on_gpu.step_losses == pytest.approx(
        pretrain(noise_images, config).step_losses, rel=tolerance
    )


# At temperature 100 the logits lie within 1/100 of 0, so no network moves the loss by more than
# 0.02 from that of no signal; one candidate more or less, ln(16 / 15), moves it by 0.065.
FLAT = {"temperature": 100.0, "epochs": 1}


def test_a_view_meets_all_others_of_its_batch_but_not_itself(noise_images, tiny_settings):
    config = PretrainConfig.from_values({**tiny_settings, **FLAT})
    pretrained = pretrain(noise_images, config)
    assert pretrained.chance_loss == pytest.approx(math.log(15))
    assert pretrained.first_loss == pytest.approx(math.log(15), abs=0.02)


@pytest.mark.parametrize(("groups", "images"), [(2, 8), (2, 17), (5, 17)])
def test_chance_counts_the_negatives_that_groups_leave(noise_images, tiny_settings, groups, images):
    config = PretrainConfig.from_values({**tiny_settings, **FLAT, "exclude_group_negatives": True})
    names = [f"patient {index % groups}" for index in range(images)]
    pretrained = pretrain(noise_images[:images], config, names)
    (record,) = pretrained.history
    assert record.loss == pytest.approx(pretrained.chance_loss, abs=0.02)
    assert record.loss < math.log(15) - 0.1


def test_chance_is_the_mean_over_all_batches(noise_images, tiny_settings):
    settings = {**tiny_settings, "exclude_group_negatives": True, "epochs": 3}
    config = PretrainConfig.from_values(settings)
    # All 8 images are in the only batch: six of one group, two that stand alone.
    pretrained = pretrain(noise_images[:8], config, [*"aaaaaabc"])
    expected = (6 * math.log(5) + 2 * math.log(15)) / 8
    assert pretrained.chance_loss == pytest.approx(expected)


def test_preset_seed_trains_everything_by_adam_as_the_notebook_does(noise_images):
    settings = {"image_size": 32, "global_batch_size": 8, "epochs": 1}
    seen = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer))
    try:
        pretrain(noise_images[:8], PretrainConfig.from_values(settings))
    finally:
        hook.remove()
    (optimizer,) = seen
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-4)
    # ResNet-18 without its last layer, and 512 -> 512 -> 128 with biases.
    head = 512 * 512 + 512 + 512 * 128 + 128
    assert sum(parameter.numel() for parameter in group["params"]) == 11_176_512 + head


def test_training_tells_images_apart(tiny_settings, noise_images):
    # Seen whole, unturned and unchanged, an image's two views are one: an easy task.
    easy = {
        "crop_scale_min": 1.0,
        "rotation_degrees": 0,
        "jitter_probability": 0,
        "blur_probability": 0,
        "epochs": 8,
    }
    config = PretrainConfig.from_values({**tiny_settings, **easy})
    pretrained = pretrain(noise_images, config)
    assert pretrained.history[-1].loss < 0.5 * math.log(15)
    assert 0.3 < pretrained.embedding_std <= 1.1


def test_history_has_the_learning_rate_of_every_epoch(noise_images, tiny_settings):
    config = PretrainConfig.from_values({**tiny_settings, "epochs": 4})
    history = pretrain(noise_images, config).history
    assert [record.epoch for record in history] == [1, 2, 3, 4]
    rates = [1e-3 * (1 + math.cos(math.pi * index / 4)) / 2 for index in range(4)]
    assert [record.learning_rate for record in history] == pytest.approx(rates)


def test_every_epoch_is_told_with_its_loss(noise_images, tiny_config, capsys):
    history = pretrain(noise_images, tiny_config).history
    told = capsys.readouterr().out
    for record in history:
        assert f"epoch {record.epoch}/2  loss {record.loss:.3f}  lr " in told


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars", "adamw"])
def test_every_optimizer_moves_the_encoder(noise_images, tiny_settings, optimizer):
    settings = {**tiny_settings, "optimizer": optimizer, "epochs": 1}
    config = PretrainConfig.from_values(settings)
    start = PretrainConfig.from_values({**settings, "learning_rate": 1e-30})
    weights = [pretrain(noise_images, c).encoder.trunk.conv1.weight for c in (config, start)]
    assert not torch.equal(*weights)


def test_loss_that_is_no_number_stops_with_step_and_epoch(noise_images, tiny_settings):
    config = PretrainConfig.from_values(
        {**tiny_settings, "optimizer": "sgd", "learning_rate": 1e30}
    )
    with pytest.raises(UserError, match=r"became nan in step 2 of epoch 1.*lower learning_rate"):
        pretrain(noise_images, config)


def test_weights_that_are_no_numbers_after_the_last_step_are_refused(noise_images, tiny_settings):
    config = PretrainConfig.from_values(
        {**tiny_settings, "optimizer": "sgd", "learning_rate": 3e38, "epochs": 1}
    )
    with pytest.raises(UserError, match="no longer finite after step 1"):
        pretrain(noise_images[:8], config)


class SavedAtOnce:
    """Keeps each state that a training would store."""

    def __init__(self):
        self.states = []

    def load(self):
        return None

    def after_step(self, state, global_step, epoch_ends):
        self.states.append((global_step, state()))

    def are_none(self):
        return not self.states

    def finish(self):
        pass


def test_weights_that_are_no_numbers_are_never_saved(noise_images, tiny_settings):
    config = PretrainConfig.from_values(
        {**tiny_settings, "optimizer": "sgd", "learning_rate": 3e38}
    )
    source = ArrayStream(noise_images, None, batch_size=8, seed=0, lanes=8)
    recovery = SavedAtOnce()
    with pytest.raises(UserError, match="no longer finite after step 1, so it was neither saved"):
        pretrain_from(source, config, recovery)
    assert recovery.states == []


@pytest.mark.parametrize("every_seconds", [0, 1e9])
def test_another_out_uri_is_asked_for_where_a_checkpoint_is_kept_alone(
    every_seconds, noise_images, tiny_settings, tmp_path
):
    config = PretrainConfig.from_values(
        {**tiny_settings, "optimizer": "sgd", "learning_rate": 1e30}
    )
    source = ArrayStream(noise_images, None, batch_size=8, seed=0, lanes=8)
    uri = tmp_path / "checkpoints"
    with (
        pytest.raises(UserError, match="step 2 of epoch 1") as caught,
        recovery_of(str(uri), "pretrain", {}, every_seconds) as recovery,
    ):
        pretrain_from(source, config, recovery)
    kept = "and choose another out_uri; the checkpoints before it are kept"
    assert str(caught.value).endswith(
        kept if every_seconds == 0 else "raise warmup_epochs or temperature"
    )
    assert uri.exists() == (every_seconds == 0)


@pytest.mark.parametrize("count", [0, 1])
def test_no_image_and_one_image_are_refused(count, noise_images, tiny_config):
    with pytest.raises(UserError, match=f"needs 8 images, got {count}: add images to the train"):
        pretrain(noise_images[:count], tiny_config)


def test_fewer_images_than_a_batch_are_refused_with_the_way_out(noise_images, tiny_config):
    with pytest.raises(
        UserError, match=r"one batch needs 8 images, got 7: add images .* global_batch_size to 7"
    ):
        pretrain(noise_images[:7], tiny_config)


def test_leaving_groups_out_of_the_negatives_changes_the_loss(noise_images, tiny_settings):
    settings = {**tiny_settings, "epochs": 1}
    groups = [f"patient {index // 9}" for index in range(17)]
    plain = pretrain(noise_images, PretrainConfig.from_values(settings), groups)
    config = PretrainConfig.from_values({**settings, "exclude_group_negatives": True})
    assert pretrain(noise_images, config, groups).first_loss < plain.first_loss
    with pytest.raises(UserError, match=r"got none: pass groups.* or set .* to false"):
        pretrain(noise_images, config)
    with pytest.raises(UserError, match="got 16 groups for 17 images"):
        pretrain(noise_images, config, groups[1:])


@contextlib.contextmanager
def signalled_loader(number):
    """Send a signal to the process that draws views as soon as there is one."""

    def send():
        children = multiprocessing.active_children()
        while not children:
            time.sleep(0.01)
            children = multiprocessing.active_children()
        os.kill(children[0].pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def test_a_loader_process_that_is_killed_is_named_and_nothing_hangs(noise_images, tiny_settings):
    config = PretrainConfig.from_values({**tiny_settings, "epochs": 200, "loader_processes": 1})
    told = r"draws views ended \(DataLoader worker.*lower loader_processes"
    with signalled_loader(signal.SIGKILL), pytest.raises(WorkersLostError, match=told):
        pretrain(noise_images, config)


def test_a_loader_process_that_hangs_is_noticed_and_ended(noise_images, tiny_settings):
    settings = {"epochs": 2000, "loader_processes": 1, "stall_minutes": 0.1}
    config = PretrainConfig.from_values({**tiny_settings, **settings})
    told = "no process that draws views answered for 6 s.*raise stall_minutes"
    with signalled_loader(signal.SIGSTOP), pytest.raises(WorkersLostError, match=told):
        pretrain(noise_images, config)
    assert not multiprocessing.active_children()
