"""The trainings that are compared: from the pretrained encoder, and from scratch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.data import derived_seed
from sightline.data.labelled import LabelledImages
from sightline.encoders import Classifier, Encoder, build_encoder
from sightline.finetune.augment import steps_per_epoch
from sightline.finetune.config import FinetuneConfig
from sightline.finetune.fractions import draw_label_fraction
from sightline.finetune.training import fine_tune
from sightline.telemetry import announce, count
from sightline.training.history import ClassifierTraining

CLASSIFIER_FILES = {"finetuned": "classifier.pth", "scratch": "classifier_scratch.pth"}


@dataclass(frozen=True)
class Trained:
    """A trained classifier, how it went, and how many labels that took."""

    classifier: Classifier
    training: ClassifierTraining
    labels_used: int


def new_classifiers(
    encoder: Encoder, classes: Sequence[str], config: FinetuneConfig
) -> dict[str, Classifier]:
    """Return the untrained networks by protocol; they differ in nothing but the encoder's start."""
    networks = {"finetuned": copy.deepcopy(encoder)}
    if config.scratch:
        seed = derived_seed(config.seed, "scratch")
        networks["scratch"] = build_encoder(encoder.spec, seed=seed)
    return {name: Classifier(net, classes, seed=config.seed) for name, net in networks.items()}


def train_protocols(
    encoder: Encoder,
    classes: Sequence[str],
    train: LabelledImages,
    val: LabelledImages,
    config: FinetuneConfig,
) -> dict[str, Trained]:
    """Train every protocol on the same images in the same order."""
    trained = {}
    for protocol, classifier in new_classifiers(encoder, classes, config).items():
        training = fine_tune(
            classifier, train.images, train.labels, val.images, val.labels, config,
            protocol=protocol,
        )  # fmt: skip
        trained[protocol] = Trained(classifier, training, len(train) + len(val))
    return trained


def train_on_fraction(
    encoder: Encoder,
    classes: Sequence[str],
    train: LabelledImages,
    val: LabelledImages,
    config: FinetuneConfig,
    fraction: float,
) -> dict[str, Trained]:
    """Train every protocol on a share of the labels, with as many optimiser steps as on all.

    The validation labels are a share too, for they cost as much as the training labels.
    """
    few_train, few_val = (
        part.take(draw_label_fraction(part.labels, part.groups, fraction, config.seed))
        for part in (train, val)
    )
    steps = config.epochs * steps_per_epoch(len(train), config.batch_size)
    epochs = math.ceil(steps / steps_per_epoch(len(few_train), config.batch_size))
    announce(
        "finetune",
        f"with {fraction:.0%} of the labels: {len(few_train)} training and {len(few_val)} "
        f"validation images, {count(epochs, 'epoch')}",
    )
    longer = config.model_copy(update={"epochs": epochs})
    return train_protocols(encoder, classes, few_train, few_val, longer)
