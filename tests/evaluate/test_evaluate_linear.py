import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sightline.encoders import EncoderSpec, build_encoder
from sightline.errors import UserError
from sightline.evaluate import linear_evaluation, train_linear
from sightline.evaluate.config import EvaluateConfig
from sightline.evaluate.linear import _fold


def draw_blobs(seed, images_per_class=30, width=6, scale=1.0, offset=0.0):
    """Two classes whose first feature differs by four deviations."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1], images_per_class).astype(np.int64)
    features = random.normal(0, 1, (len(labels), width))
    features[:, 0] += 4 * labels
    return (features * scale + offset).astype(np.float32), labels


def test_separable_features_are_learnt():
    features, labels = draw_blobs(0)
    training = train_linear(features, labels, *draw_blobs(1), 2, EvaluateConfig(learning_rate=0.1))
    test_features, test_labels = draw_blobs(2, images_per_class=200)
    # The best linear rule errs beyond two deviations: 2.3 %.
    accuracy = (training.predict(test_features).argmax(1) == test_labels).mean()
    assert accuracy >= 0.95


def test_features_of_any_scale_are_learnt_alike_because_they_are_standardised():
    config = EvaluateConfig(epochs=5)
    found = []
    for scale, offset in ((1.0, 0.0), (1000.0, 500.0)):
        train, val, test = (draw_blobs(seed, scale=scale, offset=offset) for seed in (0, 1, 2))
        found.append(train_linear(*train, *val, 2, config).predict(test[0]))
    assert np.allclose(*found, atol=1e-3)


def test_standardisation_folds_into_the_layer_exactly():
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 3)
    features = torch.rand(20, 5) * 40 + 7
    mean, deviation = features.mean(0), features.std(0)
    expected = layer((features - mean) / deviation)
    assert torch.allclose(_fold(layer, mean, deviation)(features), expected, atol=1e-5)


def test_feature_that_never_varies_does_no_harm():
    train, val, test = (draw_blobs(seed) for seed in (0, 1, 2))
    for features, _ in (train, val, test):
        features[:, 3] = 0.1
    probabilities = train_linear(*train, *val, 2, EvaluateConfig(learning_rate=0.1)).predict(
        test[0]
    )
    assert np.isfinite(probabilities).all()
    assert (probabilities.argmax(1) == test[1]).mean() > 0.9


def test_history_has_one_row_an_epoch_and_the_users_cosine_from_one_hundredth():
    training = train_linear(*draw_blobs(0), *draw_blobs(1), 2, EvaluateConfig())
    rates = {row.epoch: row.learning_rate for row in training.history}
    assert list(rates) == list(range(1, 51))
    for epoch in (1, 26, 50):
        expected = 0.01 * (1 + math.cos(math.pi * (epoch - 1) / 50)) / 2
        assert rates[epoch] == pytest.approx(expected)
    assert {row.protocol for row in training.history} == {"linear"}


def test_kept_epoch_is_the_best_of_the_validation_split():
    # Validation labels are turned round, so learning makes it worse.
    features, labels = draw_blobs(1)
    training = train_linear(*draw_blobs(0), features, 1 - labels, 2, EvaluateConfig(epochs=10))
    best = max(training.history, key=lambda row: (row.val_accuracy, -row.val_loss))
    assert training.best_epoch == best.epoch
    logits = training.layer(torch.from_numpy(features))
    loss = F.cross_entropy(logits, torch.from_numpy(1 - labels)).item()
    assert loss == pytest.approx(best.val_loss, rel=1e-4)


def test_equal_seeds_give_equal_layers():
    layers = [
        train_linear(
            *draw_blobs(0), *draw_blobs(1), 2, EvaluateConfig(epochs=3, seed=seed)
        ).layer.weight
        for seed in (4, 4, 5)
    ]
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_loss_that_is_no_number_names_epoch_and_step():
    features, labels = draw_blobs(0)
    features[-1, 0] = math.nan
    config = EvaluateConfig(standardize_features=False, batch_size=100)
    with pytest.raises(UserError, match="is nan at epoch 1, step 1"):
        train_linear(features, labels, *draw_blobs(1), 2, config)


def test_every_encoder_tensor_stays_bitwise_as_it_was_and_batchnorm_in_eval_mode():
    encoder = build_encoder(EncoderSpec("resnet18", 32), seed=0).train()
    before = {name: value.clone() for name, value in encoder.trunk.state_dict().items()}
    assert "bn1.running_mean" in before
    seen = []
    encoder.trunk.bn1.register_forward_hook(lambda module, *_: seen.append(module.training))
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    labels = np.array([0, 1] * 4)
    classifier, training = linear_evaluation(
        encoder, images, labels, images, labels, ("a", "b"), EvaluateConfig(epochs=3)
    )
    after = encoder.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert seen
    assert not any(seen)
    assert len(training.history) == 3
    assert classifier.head.in_features == encoder.width
