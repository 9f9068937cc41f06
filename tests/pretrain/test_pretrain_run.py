import csv
import json
import math

import numpy as np
import pytest
import torch
import torchvision

from sightline.encoders import load_encoder
from sightline.errors import UserError
from sightline.pretrain import pretrain
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.pretrain.run import run
from sightline.storage.artifacts import sha256_of
from sightline.training.recovery import recovery_of


@pytest.fixture
def published(labelled_dataset, tiny_config, tmp_path):
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(tmp_path / "pretrain"))
    metrics = run(uris, tiny_config)
    return tmp_path / "pretrain", metrics


def test_published_result_can_be_read_by_everyone(published):
    folder, metrics = published
    state = torch.load(folder / "simclr_backbone.pth", weights_only=True)
    resnet = torchvision.models.resnet18(weights=None)
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(state, strict=True)

    encoder = load_encoder(str(folder))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(encoder.eval()(images), resnet.eval()((images - mean) / std))

    assert json.loads((folder / "metrics.json").read_text()) == metrics
    # The train split holds 36 of the 60 images: 4 steps of 8 an epoch, 2 epochs.
    assert metrics["images"] == 36
    assert metrics["steps"] == 8
    assert metrics["chance_loss_nats"] == pytest.approx(math.log(15))

    written = (folder / "history.csv").read_bytes().decode()
    assert "\r" not in written
    history = list(csv.DictReader(written.splitlines()))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert float(history[-1]["loss"]) == metrics["final_loss_nats"]

    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["image_size"] == 32
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    curves = json.loads((folder / "temperature.json").read_text())["curves"]
    assert [curve["temperature"] for curve in curves] == [0.01, 0.07, 0.2, 1.0]


def test_a_result_is_never_overwritten(published, labelled_dataset, tiny_config):
    folder, metrics = published
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(folder))
    with pytest.raises(UserError, match="already holds a finished result"):
        run(uris, tiny_config.model_copy(update={"seed": 1}))
    # The very same run again, as after a restart that came too late, has nothing left to do.
    assert run(uris, tiny_config.model_copy(update={"checkpoint_minutes": 1.0})) == metrics
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_the_step_gives_pretraining_the_groups_of_the_data_set(
    labelled_dataset, tiny_settings, tmp_path, capsys
):
    values = {"exclude_group_negatives": True, "temperature": 100.0, "epochs": 1}
    config = PretrainConfig.from_values({**tiny_settings, **values})
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(tmp_path / "out"))
    metrics = run(uris, config)
    # Every group has 2 images; where both are in the batch, 13 candidates are left of 15.
    assert math.log(13) < metrics["chance_loss_nats"] < math.log(15)
    assert metrics["final_loss_nats"] == pytest.approx(metrics["chance_loss_nats"], abs=0.02)
    told = capsys.readouterr().out
    assert "36 images of 18 groups: resnet18 at 32 px, 1 epoch in batches of 8" in told
    assert "4 steps, about" in told
    assert f"nats after 1 epoch (no signal: {metrics['chance_loss_nats']:.3f})" in told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "sgd", "learning_rate": 1e30}, "step 2 of epoch 1"),
        (
            {"initial_weights_sha256": "f37072fd"},
            "initial_weights_sha256 f37072fd needs .* got no initial_weights_uri: give it, or",
        ),
        ({"global_batch_size": 37}, "one batch needs 37 images, got 36: add images .* to 36"),
    ],
)
def test_a_step_that_fails_publishes_nothing(
    values, message, labelled_dataset, tiny_settings, tmp_path
):
    config = PretrainConfig.from_values({**tiny_settings, **values})
    with pytest.raises(UserError, match=message):
        run(PretrainUris(dataset_uri=labelled_dataset, out_uri=str(tmp_path / "out")), config)
    assert list(tmp_path.iterdir()) == []


def test_without_images_the_step_says_that_it_was_skipped(tiny_config, tmp_path):
    metrics = run(PretrainUris(out_uri=str(tmp_path / "out")), tiny_config)
    assert "no images were given" in metrics["skipped"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert not (tmp_path / "out" / "simclr_backbone.pth").exists()


def first_step_from(labelled_dataset, tiny_settings, out, weights_uri="", **settings):
    """Return the encoder's first weights, or what a learning rate of almost 0 leaves of them."""
    values = {"learning_rate": 1e-30, "weight_decay": 0.0, "epochs": 1, **settings}
    config = PretrainConfig.from_values({**tiny_settings, **values})
    uris = PretrainUris(
        dataset_uri=labelled_dataset, out_uri=str(out), initial_weights_uri=weights_uri
    )
    metrics = run(uris, config)
    return torch.load(out / "simclr_backbone.pth", weights_only=True)["conv1.weight"], metrics


@pytest.mark.parametrize(
    "form", ["torchvision", "notebook", "step", pytest.param("two workers", marks=pytest.mark.long)]
)
def test_training_starts_from_given_weights(
    form, labelled_dataset, tiny_settings, published, tmp_path
):
    torch.manual_seed(7)
    resnet = torchvision.models.resnet18(weights=None)
    path = tmp_path / "weights.pth"
    if form == "notebook":
        # nn.Sequential(*list(resnet.children())[:-1]), as the two notebooks saved it.
        torch.save(torch.nn.Sequential(*list(resnet.children())[:-1]).state_dict(), path)
    else:
        torch.save(resnet.state_dict(), path)
    uri, expected = str(path), resnet.conv1.weight.detach()
    workers = 2 if form == "two workers" else 1
    if form == "step":
        uri = str(published[0])
        path = published[0] / "simclr_backbone.pth"
        expected = torch.load(path, weights_only=True)["conv1.weight"]
    started, metrics = first_step_from(
        labelled_dataset, tiny_settings, tmp_path / "out", uri, workers=workers
    )
    assert torch.equal(started, expected)
    assert metrics["initial_weights_sha256"] == sha256_of(path)


def test_weights_of_another_hash_are_refused_before_training(
    labelled_dataset, tiny_settings, tmp_path
):
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    found = sha256_of(path)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"another sha256: expected f37072fd, got {found}"):
        first_step_from(labelled_dataset, tiny_settings, out, str(path))
    with pytest.raises(UserError, match="expected 0123456789, got"):
        first_step_from(
            labelled_dataset, tiny_settings, out, str(path), initial_weights_sha256="0123456789"
        )
    right = {"initial_weights_sha256": found[:10].upper()}
    first_step_from(labelled_dataset, tiny_settings, out, str(path), **right)


def test_other_weights_under_the_same_name_are_another_run(
    labelled_dataset, tiny_settings, tmp_path
):
    path, out = tmp_path / "weights.pth", tmp_path / "out"
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    first, _ = first_step_from(labelled_dataset, tiny_settings, out, str(path))
    assert torch.equal(
        first_step_from(labelled_dataset, tiny_settings, out, str(path))[0], first
    )  # the finished result
    torch.manual_seed(2)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(UserError, match="already"):
        first_step_from(labelled_dataset, tiny_settings, out, str(path))
    path.unlink()
    first_step_from(labelled_dataset, tiny_settings, out, str(path))


def test_with_statistics_of_each_worker_their_number_makes_another_run(
    labelled_dataset, tiny_settings, tmp_path
):
    settings = {**tiny_settings, "batch_norm": "per_worker"}
    first_step_from(labelled_dataset, settings, tmp_path / "out")
    with pytest.raises(UserError, match="already"):
        first_step_from(labelled_dataset, settings, tmp_path / "out", workers=2)


def test_images_of_one_group_alone_are_refused(tiny_settings):
    images = [np.full((32, 32, 3), value, np.uint8) for value in range(16)]
    config = PretrainConfig.from_values({**tiny_settings, "exclude_group_negatives": True})
    with pytest.raises(UserError, match="all images of its batch are of one group"):
        pretrain(images, config, groups=["p1"] * 16)


def test_a_date_in_a_name_is_no_hash(labelled_dataset, tiny_settings, tmp_path):
    path = tmp_path / "simclr-20261127.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    first_step_from(labelled_dataset, tiny_settings, tmp_path / "out", str(path))


def test_weights_of_another_network_are_refused(labelled_dataset, tiny_settings, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)
    with pytest.raises(UserError, match="does not fit resnet18"):
        first_step_from(labelled_dataset, tiny_settings, tmp_path / "out", str(path))
    with pytest.raises(UserError, match="no weights file at"):
        first_step_from(labelled_dataset, tiny_settings, tmp_path / "out", str(path) + "x.pth")


def test_what_is_refused_when_a_training_goes_on_costs_no_checkpoint(
    labelled_dataset, tiny_settings, tmp_path
):
    config = PretrainConfig.from_values(tiny_settings)
    out = tmp_path / "out"
    uris = PretrainUris(dataset_uri=labelled_dataset, out_uri=str(out))
    folder = out / "checkpoints"
    with recovery_of(str(folder), "pretrain", {}, every_seconds=60) as recovery:
        recovery.checkpoints.save({"step": 1}, 1, wait=True)
    before = {path.name for path in folder.glob("step-*")}
    assert len(before) == 2
    for refused in (
        uris.model_copy(update={"labels_uri": str(tmp_path / "nowhere")}),
        uris,  # the checkpoint is of other settings
    ):
        with pytest.raises(UserError):
            run(refused, config)
        assert {path.name for path in folder.glob("step-*")} == before
