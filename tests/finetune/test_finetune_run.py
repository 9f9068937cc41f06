import csv
import json

import numpy as np
import pytest
import torch

from sightline.data import open_dataset
from sightline.encoders import (
    EncoderSpec,
    build_encoder,
    encode_images,
    load_classifier,
    predict_probabilities,
)
from sightline.errors import UserError
from sightline.finetune import protocols
from sightline.finetune.config import FinetuneConfig, FinetuneUris
from sightline.finetune.run import run
from sightline.scoring import read_predictions
from sightline.storage import fetch_artifacts

CONFIG = FinetuneConfig(image_size=32, epochs=1, label_fractions=(0.2,), bootstrap_samples=100)


def save_weights(folder, spoilt=False):
    state = build_encoder(EncoderSpec("resnet18", 32), seed=1).trunk.state_dict()
    if spoilt:
        state["conv1.weight"].fill_(3e38)  # so that what it computes is no number
    torch.save(state, folder / "simclr_backbone.pth")
    return str(folder / "simclr_backbone.pth")


@pytest.fixture(scope="module")
def finished(labelled_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    uris = FinetuneUris(
        encoder_uri=save_weights(folder),
        dataset_uri=labelled_dataset,
        out_uri=str(folder / "out"),
    )
    return uris, run(uris, CONFIG)


def test_every_promised_file_is_published(finished):
    uris, metrics = finished
    folder = fetch_artifacts(uris.out_uri)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "artifacts.json",
        "classifier.json",
        "classifier.pth",
        "classifier_scratch.pth",
        "config.json",
        "history.csv",
        "metrics.json",
        "predictions_finetuned.csv",
        "predictions_scratch.csv",
        "test_features.npz",
    }
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    with (folder / "history.csv").open() as file:
        assert [row["protocol"] for row in csv.DictReader(file)] == ["finetuned", "scratch"]


@pytest.mark.parametrize(
    ("protocol", "file_name"),
    [("finetuned", "classifier.pth"), ("scratch", "classifier_scratch.pth")],
)
def test_published_classifier_gives_the_published_predictions(
    finished, labelled_dataset, protocol, file_name
):
    uris, _ = finished
    classifier = load_classifier(uris.out_uri, file_name)
    test = open_dataset(labelled_dataset).split("test")
    written = read_predictions(fetch_artifacts(uris.out_uri) / f"predictions_{protocol}.csv")
    found = predict_probabilities(classifier, test.read_images(), image_size=32)
    assert written.classes == classifier.classes
    assert written.names == tuple(sample.name for sample in test.samples)
    assert np.allclose(found, written.probabilities, atol=1e-6)


def test_features_are_those_of_the_finetuned_encoder(finished, labelled_dataset):
    uris, _ = finished
    features = np.load(fetch_artifacts(uris.out_uri) / "test_features.npz")
    encoder = load_classifier(uris.out_uri).encoder
    images = open_dataset(labelled_dataset).split("test").read_images()
    assert np.allclose(features["finetuned"], encode_images(encoder, images, 32), atol=1e-5)


def test_share_of_the_labels_is_reported_with_its_size(finished):
    _, metrics = finished
    fraction = metrics["label_fractions"]["0.2"]
    # 20 % of each class's 12 training and 4 validation images is 2.4 and 0.8: two groups of two
    # images, and one.
    assert [entry["labels_used"] for entry in fraction.values()] == [18, 18]
    assert list(fraction) == list(metrics["protocols"]) == ["finetuned", "scratch"]
    assert [entry["labels_used"] for entry in metrics["protocols"].values()] == [48, 48]


def test_test_split_is_first_read_after_the_last_training_and_only_once(
    tmp_path, labelled_dataset, reads, monkeypatch
):
    def train_and_note(*args, **settings):
        training = fine_tune(*args, **settings)
        reads.append("trained")
        return training

    fine_tune = protocols.fine_tune
    monkeypatch.setattr(protocols, "fine_tune", train_and_note)
    uris = FinetuneUris(
        encoder_uri=save_weights(tmp_path),
        dataset_uri=labelled_dataset,
        out_uri=str(tmp_path / "out"),
    )
    run(uris, CONFIG)
    # Two trainings on all labels, and two on a fifth of them.
    expected = ["train"] * 36 + ["val"] * 12 + ["trained"] * 4 + ["test"] * 12
    assert reads == expected


def test_without_labelled_images_the_step_says_so_and_reads_nothing(tmp_path):
    uris = FinetuneUris(encoder_uri="nowhere", out_uri=str(tmp_path / "out"))
    assert list(run(uris, CONFIG)) == ["skipped"]
    assert (fetch_artifacts(uris.out_uri) / "metrics.json").is_file()


def test_training_that_diverges_publishes_nothing(tmp_path, labelled_dataset):
    uris = FinetuneUris(
        encoder_uri=save_weights(tmp_path, spoilt=True),
        dataset_uri=labelled_dataset,
        out_uri=str(tmp_path / "out"),
    )
    with pytest.raises(UserError, match="loss of finetuned is nan at epoch 1, step 1"):
        run(uris, CONFIG)
    assert not (tmp_path / "out").exists()
