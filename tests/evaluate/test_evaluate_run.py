import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from sightline.data import open_dataset, write_dataset
from sightline.data.shards import PackedImage
from sightline.encoders import EncoderSpec, build_encoder, encode_images
from sightline.errors import UserError
from sightline.evaluate import protocols
from sightline.evaluate.config import EvaluateConfig, EvaluateUris
from sightline.evaluate.run import run
from sightline.scoring import read_predictions, score_classification
from sightline.storage import fetch_artifacts

PROTOCOLS = ("majority", "pixel_nearest_neighbour", "knn", "linear", "linear_random")
CONFIG = EvaluateConfig(image_size=32, epochs=5, bootstrap_samples=100)


@pytest.fixture(scope="module")
def encoder_uri(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "simclr_backbone.pth"
    torch.save(build_encoder(EncoderSpec("resnet18", 32), seed=1).trunk.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def finished(encoder_uri, labelled_dataset, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("evaluate") / "out")
    uris = EvaluateUris(encoder_uri=encoder_uri, dataset_uri=labelled_dataset, out_uri=out)
    return uris, run(uris, CONFIG)


def test_every_promised_file_is_published(finished):
    uris, metrics = finished
    folder = fetch_artifacts(uris.out_uri)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "artifacts.json",
        "config.json",
        "history.csv",
        "linear.pth",
        "metrics.json",
        "test_features.npz",
        *(f"predictions_{protocol}.csv" for protocol in PROTOCOLS),
    }
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert tuple(metrics["protocols"]) == PROTOCOLS


def test_numbers_follow_from_the_predictions_files(finished):
    uris, metrics = finished
    folder = fetch_artifacts(uris.out_uri)
    for protocol in PROTOCOLS:
        found = read_predictions(folder / f"predictions_{protocol}.csv")
        again = score_classification(
            found.labels, found.probabilities, found.classes, found.groups,
            labels_used=48, bootstrap_samples=100,
        )  # fmt: skip
        assert metrics["protocols"][protocol] == again


def test_test_split_is_what_is_scored_and_all_other_labels_are_counted(finished, labelled_dataset):
    _, metrics = finished
    test = open_dataset(labelled_dataset).split("test")
    entry = metrics["protocols"]["linear"]
    assert entry["test_images"] == len(test) == 12
    assert entry["labels_used"] == 48
    assert metrics["protocols"]["majority"]["accuracy"]["value"] == pytest.approx(1 / 3)


def test_linear_weights_are_a_plain_layer_on_h(finished, labelled_dataset, encoder_uri):
    uris, _ = finished
    folder = fetch_artifacts(uris.out_uri)
    layer = nn.Linear(512, 3)
    layer.load_state_dict(torch.load(folder / "linear.pth", weights_only=True))
    features = np.load(folder / "test_features.npz")
    logits = layer(torch.from_numpy(features["pretrained"])).detach()
    found = read_predictions(folder / "predictions_linear.csv")
    assert np.allclose(torch.softmax(logits, 1).numpy(), found.probabilities, atol=1e-5)


def test_features_are_those_of_the_given_and_of_a_random_encoder(finished, labelled_dataset):
    uris, _ = finished
    features = np.load(fetch_artifacts(uris.out_uri) / "test_features.npz")
    test = open_dataset(labelled_dataset).split("test")
    encoder = build_encoder(EncoderSpec("resnet18", 32), seed=1)
    assert features["names"].tolist() == [sample.name for sample in test.samples]
    assert features["labels"].tolist() == test.label_indices.tolist()
    assert np.allclose(
        features["pretrained"], encode_images(encoder, test.read_images()), atol=1e-5
    )
    assert features["random"].shape == features["pretrained"].shape
    assert not np.allclose(features["random"], features["pretrained"], atol=0.1)


def test_history_follows_both_linear_protocols(finished):
    uris, _ = finished
    with (fetch_artifacts(uris.out_uri) / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["protocol"], row["epoch"]) for row in rows] == [
        (protocol, str(epoch)) for protocol in ("linear", "linear_random") for epoch in range(1, 6)
    ]


def test_test_split_is_first_read_after_the_last_training_and_only_once(
    tmp_path, encoder_uri, labelled_dataset, reads, monkeypatch
):
    def train_and_note(*args):
        training = train_linear(*args)
        reads.append("trained")
        return training

    train_linear = protocols.train_linear
    monkeypatch.setattr(protocols, "train_linear", train_and_note)
    run(
        EvaluateUris(
            encoder_uri=encoder_uri, dataset_uri=labelled_dataset, out_uri=str(tmp_path / "out")
        ),
        CONFIG,
    )
    expected = ["train"] * 36 + ["val"] * 12 + ["trained"] * 2 + ["test"] * 12
    assert reads == expected


def test_finished_result_is_never_overwritten(finished):
    uris, _ = finished
    with pytest.raises(UserError, match="already holds a finished result"):
        run(uris, CONFIG)


def test_without_labelled_images_the_step_says_so_and_reads_nothing(tmp_path):
    uris = EvaluateUris(encoder_uri="nowhere", out_uri=str(tmp_path / "out"))
    metrics = run(uris, CONFIG)
    folder = fetch_artifacts(uris.out_uri)
    assert list(metrics) == ["skipped"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def pack(tmp_path, splits_of_class):
    """Pack one tiny gray image for each (class, split)."""
    import io

    from PIL import Image

    images = []
    for name, splits in splits_of_class.items():
        for number, split in enumerate(splits):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (20 * number, 9, 9)).save(buffer, "PNG")
            group = f"{name}{number}"
            images.append(
                PackedImage(buffer.getvalue(), "png", group, group, split, 8, 8, label=name)
            )
    return write_dataset(
        images, str(tmp_path / "store"), kind="labels", classes=list(splits_of_class)
    )


@pytest.mark.parametrize(
    ("splits_of_class", "message"),
    [
        (
            {"a": ["train", "val", "test"], "b": ["val", "test"]},
            "at least 2 classes in its training split, got only a",
        ),
        (
            {"a": ["train", "test"], "b": ["train", "test"]},
            "images in all three splits, got train 2, val 0, test 2",
        ),
    ],
)
def test_data_set_too_thin_is_refused_and_nothing_published(
    tmp_path, encoder_uri, splits_of_class, message
):
    uris = EvaluateUris(
        encoder_uri=encoder_uri,
        dataset_uri=pack(tmp_path, splits_of_class),
        out_uri=str(tmp_path / "out"),
    )
    with pytest.raises(UserError, match=message):
        run(uris, CONFIG)
    assert not (tmp_path / "out").exists()


def test_class_that_validation_lacks_is_noted_and_does_not_stop_the_step(tmp_path, encoder_uri):
    uris = EvaluateUris(
        encoder_uri=encoder_uri,
        dataset_uri=pack(tmp_path, {"a": ["train", "val", "test"], "b": ["train", "test"]}),
        out_uri=str(tmp_path / "out"),
    )
    metrics = run(uris, CONFIG)
    assert metrics["notes"] == [
        "the val split has no image of b, so the choice of the best epoch ignores it"
    ]


def test_encoder_whose_features_are_no_numbers_is_refused(tmp_path, labelled_dataset):
    state = build_encoder(EncoderSpec("resnet18", 32), seed=1).trunk.state_dict()
    state["conv1.weight"].fill_(3e38)
    torch.save(state, tmp_path / "enormous.pth")
    uris = EvaluateUris(
        encoder_uri=str(tmp_path / "enormous.pth"),
        dataset_uri=labelled_dataset,
        out_uri=str(tmp_path / "out"),
    )
    with pytest.raises(
        UserError, match="the pretrained encoder gives features that are not finite"
    ):
        run(uris, CONFIG)
    assert not (tmp_path / "out").exists()
