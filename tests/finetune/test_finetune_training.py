import math

import numpy as np
import pytest
import torch

from sightline.data import open_dataset
from sightline.data.labelled import read_labelled
from sightline.encoders import Classifier, EncoderSpec, build_encoder, predict_probabilities
from sightline.errors import UserError
from sightline.finetune import fine_tune
from sightline.finetune.config import FinetuneConfig
from sightline.finetune.training import _build_optimizer, seconds_per_step

SPEC = EncoderSpec("resnet18", 32)
CLASSES = ("checks", "columns", "rows")


@pytest.fixture(scope="module")
def splits(labelled_dataset):
    dataset = open_dataset(labelled_dataset)
    train, val = (read_labelled(dataset, split, "test") for split in ("train", "val"))
    return train.images, train.labels, val.images, val.labels


def new_classifier():
    return Classifier(build_encoder(SPEC, seed=1), CLASSES, seed=0)


@pytest.fixture(scope="module")
def trained(splits):
    classifier = new_classifier()
    return classifier, fine_tune(classifier, *splits, FinetuneConfig(epochs=4, batch_size=12))


def test_every_layer_learns(trained):
    classifier, _ = trained
    untouched = new_classifier()
    for (name, before), after in zip(
        untouched.named_parameters(), classifier.parameters(), strict=True
    ):
        assert not torch.equal(before, after), name


def test_patterns_are_told_apart_after_a_few_epochs(trained, splits):
    classifier, _ = trained
    probabilities = predict_probabilities(classifier, splits[0], 32)
    assert (probabilities.argmax(1) == splits[1]).mean() > 0.8


def test_weights_are_those_of_the_best_validation_epoch(splits):
    # Validation labels that contradict the training ones: the more is learnt, the worse.
    images, labels, val_images, val_labels = splits
    contrary = (val_labels + 1) % 3
    classifier = new_classifier()
    training = fine_tune(
        classifier, images, labels, val_images, contrary, FinetuneConfig(epochs=4, batch_size=12)
    )
    best = max(training.history, key=lambda row: (row.val_accuracy, -row.val_loss))
    assert training.best_epoch == best.epoch < 4
    probabilities = predict_probabilities(classifier, val_images, 32)
    truth = probabilities[np.arange(len(contrary)), contrary]
    assert -np.log(truth).mean() == pytest.approx(best.val_loss, rel=1e-3)
    assert training.val_accuracy == (probabilities.argmax(1) == contrary).mean()


def test_history_follows_the_users_cosine_from_one_thousandth(trained):
    _, training = trained
    expected = [0.001 * (1 + math.cos(math.pi * index / 4)) / 2 for index in range(4)]
    assert [row.learning_rate for row in training.history] == pytest.approx(expected)
    assert [row.epoch for row in training.history] == [1, 2, 3, 4]


def test_equal_seeds_give_equal_weights(splits):
    weights = []
    for seed in (3, 3, 4):
        classifier = new_classifier()
        fine_tune(classifier, *splits, FinetuneConfig(epochs=1, seed=seed))
        weights.append(classifier.encoder.trunk.conv1.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("protocol", "expected"), [("finetuned", 0.3), ("scratch", 1.0)])
def test_pretrained_encoder_may_learn_slower_but_scratch_never_does(protocol, expected):
    config = FinetuneConfig(encoder_learning_rate_factor=0.3)
    classifier = new_classifier()
    head, encoder = _build_optimizer(classifier, config, protocol).param_groups
    assert head["factor"] == 1.0
    assert encoder["factor"] == expected
    assert len(head["params"]) + len(encoder["params"]) == len(list(classifier.parameters()))


def test_loss_that_is_no_number_names_the_step(splits):
    classifier = new_classifier()
    with torch.no_grad():
        classifier.head.bias[0] = math.nan
    with pytest.raises(UserError, match=r"loss of finetuned is nan at epoch 1, step 1 of 2"):
        fine_tune(classifier, *splits, FinetuneConfig(epochs=1))


def test_measuring_a_step_leaves_the_classifier_as_it_was(splits):
    classifier = new_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    assert seconds_per_step(classifier, splits[0], FinetuneConfig(batch_size=8)) > 0
    assert all(torch.equal(before[name], v) for name, v in classifier.state_dict().items())
