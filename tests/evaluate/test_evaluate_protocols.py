import numpy as np
import pytest

from sightline.data import Sample
from sightline.data.labelled import LabelledImages
from sightline.evaluate.config import EvaluateConfig
from sightline.evaluate.protocols import predict_protocols, train_linear_protocols

CONFIG = EvaluateConfig(epochs=20, learning_rate=0.1)


def gray_images(name, count):
    """Images that are all alike, half of them of each of two classes."""
    labels = np.arange(count) % 2
    samples = [
        Sample(f"{name}-{number}", f"{name}-{number}", name, "", "", 0, 0, 8, 8)
        for number in range(count)
    ]
    return LabelledImages(name, [np.zeros((8, 8, 3), np.uint8)] * count, labels, samples)


def draw_features(labels, tells_apart, seed):
    """Return noise, around two opposite points 12 deviations apart where classes are told apart."""
    noise = np.random.default_rng(seed).normal(0, 1, (len(labels), 4))
    noise[:, 0] += (12.0 * labels - 6.0) * tells_apart
    return noise.astype(np.float32)


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ("pretrained", {"knn": True, "linear": True, "linear_random": False}),
        ("random", {"knn": False, "linear": False, "linear_random": True}),
    ],
)
def test_each_protocol_stands_on_the_features_of_its_own_network(able, expected):
    train, val, test = gray_images("train", 60), gray_images("val", 40), gray_images("test", 200)
    known = train + val
    features, test_features = (
        {
            name: draw_features(part.labels, name == able, seed + len(name))
            for name in ("pretrained", "random")
        }
        for seed, part in enumerate((known, test))
    )
    trainings = train_linear_protocols(features, train, val, 2, CONFIG)
    found = predict_protocols(trainings, features, known, test_features, test, 2, CONFIG)
    accuracy = {name: (found[name].argmax(1) == test.labels).mean() for name in expected}
    # Six deviations from the middle, no image is on the wrong side; 200 guesses are right in 50 %,
    # and in 75 % (seven standard errors) never.
    assert {name: bool(value > 0.99) for name, value in accuracy.items()} == expected
    assert {name: bool(value > 0.75) for name, value in accuracy.items()} == expected
