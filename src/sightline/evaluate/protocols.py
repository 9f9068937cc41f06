"""The protocols that are compared: two linear layers, neighbours, and two baselines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sightline.data.labelled import LabelledImages
from sightline.evaluate.config import EvaluateConfig
from sightline.evaluate.features import Features
from sightline.evaluate.linear import LinearTraining, train_linear
from sightline.scoring import majority_probabilities, nearest_neighbour_probabilities
from sightline.scoring.neighbours import knn_predict
from sightline.telemetry import announce, count

NETWORK_OF_LINEAR = {"linear": "pretrained", "linear_random": "random"}


def train_linear_protocols(
    features: Features,
    train: LabelledImages,
    val: LabelledImages,
    n_classes: int,
    config: EvaluateConfig,
) -> dict[str, LinearTraining]:
    """Train one linear layer a network, on the features of `train + val`, in that order."""
    trainings = {}
    for protocol, network in NETWORK_OF_LINEAR.items():
        of_train, of_val = np.split(features[network], [len(train)])
        training = train_linear(
            of_train, train.labels, of_val, val.labels, n_classes, config, protocol
        )
        announce(
            "evaluate",
            f"{protocol}: best of {count(config.epochs, 'epoch')} is {training.best_epoch}, "
            f"validation accuracy {training.val_accuracy:.1%}",
        )
        trainings[protocol] = training
    return trainings


def predict_protocols(
    trainings: dict[str, LinearTraining],
    features: Features,
    known: LabelledImages,
    test_features: Features,
    test: LabelledImages,
    n_classes: int,
    config: EvaluateConfig,
) -> dict[str, NDArray[np.float64]]:
    """Return each protocol's class probabilities of the test images, shape (N, n_classes).

    kNN and the baselines choose nothing on the validation split, so they learn from it too.
    """
    predictions = {
        "majority": majority_probabilities(known.labels, n_classes, len(test)),
        "pixel_nearest_neighbour": nearest_neighbour_probabilities(
            known.images, known.labels, test.images, n_classes
        ),
        "knn": knn_predict(
            features["pretrained"],
            known.labels,
            test_features["pretrained"],
            n_classes,
            config.knn_neighbours,
            config.knn_temperature,
        ),
    }
    for protocol, network in NETWORK_OF_LINEAR.items():
        predictions[protocol] = trainings[protocol].predict(test_features[network])
    return predictions
