import csv
import re
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tensorboardX.proto.event_pb2 import Event

from sightline.data import open_dataset
from sightline.data.labelled import read_labelled
from sightline.data.stream import ArrayStream
from sightline.encoders import encode_images, load_encoder
from sightline.errors import UserError
from sightline.pretrain import PretrainConfig, pretrain, train
from sightline.pretrain.config import PretrainUris
from sightline.pretrain.probe import NeighbourProbe
from sightline.pretrain.run import run
from sightline.pretrain.spread import effective_rank, embedding_std
from sightline.pretrain.train import pretrain_from
from sightline.scoring.neighbours import knn_predict
from sightline.storage import fetch_artifacts
from sightline.telemetry.exporter import Exporter
from sightline.training.recovery import recovery_of


def test_spread_is_1_in_all_directions_and_0_at_a_point():
    generator = torch.Generator().manual_seed(0)
    everywhere = torch.randn(4000, 16, generator=generator)
    assert embedding_std(everywhere) == pytest.approx(1, abs=0.01)
    point = torch.randn(1, 16, generator=generator).repeat(100, 1)
    assert embedding_std(point) == pytest.approx(0, abs=1e-6)
    # Half at e1, half at -e1: one value in 16 has a deviation of 1.
    line = torch.zeros(1000, 16)
    line[:, 0] = torch.tensor([1.0, -1.0]).repeat(500)
    assert embedding_std(line) == pytest.approx(4 / 16, abs=1e-3)


@pytest.mark.parametrize("directions", [1, 3, 16])
def test_effective_rank_counts_the_directions_that_are_filled(directions):
    projections = torch.eye(16)[:directions].repeat(10, 1) * torch.tensor(7.0)
    assert effective_rank(projections) == pytest.approx(directions)


def test_a_direction_hardly_filled_counts_for_less_than_one():
    # Singular values √9 and √1: shares 3/4 and 1/4.
    projections = torch.eye(4)[[0] * 9 + [1]]
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(projections) == pytest.approx(expected)


def test_every_epoch_tells_spread_rank_and_waiting(noise_images, tiny_config, capsys):
    record = pretrain(noise_images, tiny_config).history[-1]
    assert 0 <= record.data_wait_ratio < 1
    assert 1 <= record.effective_rank <= 16
    told = capsys.readouterr().out
    assert f"std {record.embedding_std:.2f}  rank {record.effective_rank:.0f}" in told


def test_a_log_gets_every_number_of_a_step_on_one_line(noise_images, tiny_settings, capsys):
    pretrain(noise_images, PretrainConfig.from_values({**tiny_settings, "log_steps": 1}))
    lines = capsys.readouterr().err.splitlines()
    number = r"[0-9.]+"
    line = (
        rf"pretrain: epoch \d: \d/2, about \d+ s left, loss {number}, lr {number}e-\d\d, "
        rf"\d+ images/s, \d+% waiting, std {number}, rank \d+"
    )
    assert len(lines) == 4
    assert all(re.fullmatch(line, text) for text in lines), lines


def test_projections_that_have_collapsed_stop_the_training_in_words(tiny_settings):
    black = [np.zeros((36, 40, 3), dtype=np.uint8) for _ in range(16)]
    config = PretrainConfig.from_values({**tiny_settings, "epochs": 5})
    with pytest.raises(UserError, match=r"have collapsed: after epoch 3 .* raise warmup_epochs"):
        pretrain(black, config)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_collapsed_encoder_is_no_result_of_a_short_training_either(tiny_settings, epochs):
    black = [np.zeros((36, 40, 3), dtype=np.uint8) for _ in range(16)]
    config = PretrainConfig.from_values({**tiny_settings, "epochs": epochs})
    with pytest.raises(UserError, match=rf"have collapsed: after epoch {epochs} .* raise epochs"):
        pretrain(black, config)


def test_few_directions_at_the_loss_of_no_signal_are_told_once(tiny_settings, monkeypatch, capsys):
    config = PretrainConfig.from_values({**tiny_settings, "epochs": 4})
    shades = [np.full((36, 40, 3), 16 * i, dtype=np.uint8) for i in range(16)]
    black = [np.zeros((36, 40, 3), dtype=np.uint8) for _ in range(16)]
    monkeypatch.setattr(train, "embedding_std", lambda _: 0.11)
    monkeypatch.setattr(train, "effective_rank", lambda _: 4.2)
    pretrain(black, config)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    chance = np.log(2 * 8 - 1)
    assert f"after 3 epochs the projections fill 4 of {config.projection_out} directions" in line
    assert f"the loss {chance:.3f} is that of no signal ({chance:.3f})" in line
    pretrain(shades, config)  # as few, but its loss says that images are told apart
    monkeypatch.setattr(train, "effective_rank", lambda _: 5.1)
    pretrain(black, config)
    assert "warning" not in capsys.readouterr().out


def test_a_state_whose_projections_have_collapsed_is_never_saved(
    noise_images, tiny_settings, tmp_path, capsys
):
    black = [np.zeros((36, 40, 3), dtype=np.uint8) for _ in range(16)]
    config = PretrainConfig.from_values({**tiny_settings, "epochs": 4})
    with recovery_of(str(tmp_path), "pretrain", {}, every_seconds=0) as recovery:
        told = (
            "have collapsed: .* or set projection_batch_norm to true$"  # here, on the same out_uri
        )
        with pytest.raises(UserError, match=told):
            pretrain_from(ArrayStream(black, None, batch_size=8, seed=0, lanes=8), config, recovery)
        recovery.finish()
        assert recovery.checkpoints.are_none
        assert "step 1 is not saved: it maps all images" in capsys.readouterr().out
        source = ArrayStream(noise_images, None, batch_size=8, seed=0, lanes=8)
        pretrain_from(source, config, recovery)
        assert not recovery.checkpoints.are_none


def read_events(folder):
    """Return {tag: {step: value}} of all event files; what is purged is left out."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        place = 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 12 + size + 4
            if event.HasField("session_log"):
                for values in found.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_gets_every_step_and_epoch(noise_images, tiny_settings, tmp_path):
    config = PretrainConfig.from_values({**tiny_settings, "tensorboard_dir": str(tmp_path)})
    pretrained = pretrain(noise_images, config)
    found = read_events(tmp_path)
    losses = found["pretrain/loss"]
    assert list(losses) == [1, 2, 3, 4]
    assert list(losses.values()) == pytest.approx(pretrained.step_losses)
    assert found["pretrain/epoch/embedding_std"] == {
        2: pytest.approx(pretrained.history[0].embedding_std),
        4: pytest.approx(pretrained.history[1].embedding_std),
    }
    assert set(found) == {
        *(f"pretrain/{name}" for name in ("loss", "learning_rate", "gradient_norm")),
        *(
            f"pretrain/epoch/{name}"
            for name in (
                "loss",
                "images_per_second",
                "data_wait_ratio",
                "embedding_std",
                "effective_rank",
            )
        ),
    }


def test_a_result_has_the_curves_of_the_whole_training(
    labelled_dataset, tiny_config, tmp_path, monkeypatch
):
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(tmp_path / "out"))
    end_epoch = train._Training.end_epoch

    def fail_in_the_second_epoch(training, probe):
        if training.epoch == 2:
            raise RuntimeError("the power was cut")
        end_epoch(training, probe)

    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "end_epoch", fail_in_the_second_epoch)
        with pytest.raises(RuntimeError, match="power"):
            run(uris, tiny_config)
    run(uris, tiny_config)
    folder = fetch_artifacts(uris.out_uri)
    found = read_events(folder / "tensorboard")
    with (folder / "steps.csv").open(newline="") as file:
        losses = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}
    assert found["pretrain/loss"] == pytest.approx(losses)
    with (folder / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    for name in ("loss", "images_per_second", "embedding_std", "effective_rank"):
        expected = {4 * int(row["epoch"]): float(row[name]) for row in history}
        assert found[f"pretrain/epoch/{name}"] == pytest.approx(expected)
    assert found["pretrain/learning_rate"] == pytest.approx(
        {step: float(history[(step - 1) // 4]["learning_rate"]) for step in range(1, 9)}
    )


def test_an_interrupted_epoch_counts_with_the_images_of_the_time_that_was_measured(
    labelled_dataset, tiny_settings, tmp_path, monkeypatch
):
    # Saved after every step, as long as the save before has ended.
    config = PretrainConfig.from_values({**tiny_settings, "checkpoint_minutes": 1e-6})
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(tmp_path / "out"))
    take_step = train._Training.take_step

    def fail_in_the_third_step(training, batch):
        if (training.epoch, training.step) == (2, 2):
            raise RuntimeError("the power was cut")
        training._recovery.checkpoints.finish()
        take_step(training, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "take_step", fail_in_the_third_step)
        with pytest.raises(RuntimeError, match="power"):
            run(uris, config)
    metrics = run(uris, config)
    with (fetch_artifacts(uris.out_uri) / "history.csv").open(newline="") as file:
        whole, rest = csv.DictReader(file)
    images = [float(row["images_per_second"]) * float(row["seconds"]) for row in (whole, rest)]
    assert images[0] == pytest.approx(32)
    assert images[1] < 31
    seconds = float(whole["seconds"]) + float(rest["seconds"])
    assert metrics["images_per_second"] == pytest.approx(sum(images) / seconds)


def test_prometheus_can_ask_a_training_how_it_goes(noise_images, tiny_config, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_METRICS_PORT", "0")
    exporter = Exporter()
    source = ArrayStream(noise_images, None, batch_size=8, seed=0, lanes=8)
    with exporter.serving("pretrain"):
        pretrained = pretrain_from(source, tiny_config, exporter=exporter)
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
            found = {s.name: s.value for family in families for s in family.samples}
    assert found["sightline_train_loss"] == pretrained.step_losses[-1]
    assert found["sightline_train_steps_total"] == 4
    assert found["sightline_train_images_total"] == 32
    assert found["sightline_train_epoch"] == 2
    assert found["sightline_train_step_duration_seconds_count"] == 4
    assert found["sightline_embedding_std"] == pretrained.embedding_std
    assert found["sightline_train_gradient_norm"] > 0


def test_knn_accuracy_is_looked_at_and_changes_no_bit(labelled_dataset, tiny_settings, tmp_path):
    dataset = open_dataset(labelled_dataset)
    results = {}
    for every in (0, 2):
        config = PretrainConfig.from_values({**tiny_settings, "epochs": 4, "knn_epochs": every})
        out = str(tmp_path / str(every))
        uris = PretrainUris(dataset_uri=labelled_dataset, labels_uri=labelled_dataset, out_uri=out)
        run(uris, config)
        results[every] = Path(out)
    weights = [(folder / "simclr_backbone.pth").read_bytes() for folder in results.values()]
    assert weights[0] == weights[1]
    rows = [
        list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
        for folder in results.values()
    ]
    assert [row["knn_accuracy"] for row in rows[0]] == [""] * 4
    found = [row["knn_accuracy"] for row in rows[1]]
    assert (found[0], found[2]) == ("", "")
    # The last look was at the encoder that was published.
    encoder = load_encoder(str(results[2]))
    train, val = (read_labelled(dataset, split, "test") for split in ("train", "val"))
    votes = knn_predict(
        encode_images(encoder, train.images), train.labels, encode_images(encoder, val.images), 3
    )
    assert float(found[3]) == (votes.argmax(axis=1) == val.labels).mean()


def test_of_large_splits_the_same_few_images_are_looked_at(labelled_dataset, monkeypatch):
    monkeypatch.setattr("sightline.pretrain.probe.MAX_TRAIN", 9)
    monkeypatch.setattr("sightline.pretrain.probe.MAX_VAL", 5)
    one, other = (NeighbourProbe(open_dataset(labelled_dataset)) for _ in range(2))
    assert (len(one._train), len(one._val)) == (9, 5)
    assert one._train.names == other._train.names
    assert {sample.split for sample in one._train.samples} == {"train"}
