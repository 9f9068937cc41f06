"""Linear evaluation: one linear layer on frozen features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.data import derived_seed
from sightline.encoders import Classifier, Encoder, encode_images
from sightline.errors import UserError
from sightline.evaluate.config import EvaluateConfig
from sightline.training.devices import pick_device
from sightline.training.history import ClassifierEpoch, ClassifierTraining
from sightline.training.optimizers import build_optimizer
from sightline.training.schedules import cosine_learning_rate

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LinearTraining(ClassifierTraining):
    """A trained linear layer and how it got there."""

    layer: nn.Linear
    """Takes plain features h; standardisation is folded in."""

    def predict(self, features: Features) -> NDArray[np.float64]:
        """Return class probabilities (N, C) of plain features (N, D)."""
        with torch.inference_mode():
            logits = self.layer(torch.from_numpy(features))
        return torch.softmax(logits.double(), dim=1).numpy()


def linear_evaluation(
    encoder: Encoder,
    train_images: Sequence[NDArray[np.uint8]],
    train_labels: Labels,
    val_images: Sequence[NDArray[np.uint8]],
    val_labels: Labels,
    classes: Sequence[str],
    config: EvaluateConfig | None = None,
) -> tuple[Classifier, LinearTraining]:
    """Freeze an encoder and train one linear layer on its h; what a notebook calls.

    Args:
        encoder: The pretrained encoder; not one of its tensors changes.
        train_images: Images to learn from, each (height, width, 3), RGB, 0..255.
        train_labels: Their class indices.
        val_images: Images that choose the best epoch.
        val_labels: Their class indices.
        classes: Class names in the order of their indices.
        config: Settings; the defaults if left out.

    Returns:
        The encoder with the trained head, and the training's history.

    Raises:
        UserError: If a loss is not finite.
    """
    config = config or EvaluateConfig()
    device = pick_device()
    train, val = (
        encode_images(encoder, images, config.image_size, config.encode_batch_size, device)
        for images in (train_images, val_images)
    )
    training = train_linear(train, train_labels, val, val_labels, len(classes), config)
    classifier = Classifier(encoder, classes, seed=config.seed)
    classifier.head = training.layer
    return classifier.eval(), training


def train_linear(
    train_features: Features,
    train_labels: Labels,
    val_features: Features,
    val_labels: Labels,
    n_classes: int,
    config: EvaluateConfig,
    protocol: str = "linear",
) -> LinearTraining:
    """Train one linear layer on features and keep its best epoch.

    The best is the highest validation accuracy, among equals the lowest validation loss. The
    layer is so small that the CPU is the fastest place for it.

    Args:
        train_features: Shape (N, D).
        train_labels: Class indices, shape (N,).
        val_features: Shape (M, D).
        val_labels: Class indices, shape (M,).
        n_classes: Number of classes.
        config: Epochs, batch size, learning rate, optimiser, standardisation, seed.
        protocol: Name in the history.

    Raises:
        UserError: If a loss is not finite.
    """
    mean, deviation = _scale(train_features, config.standardize_features)
    train, val = ((torch.from_numpy(f) - mean) / deviation for f in (train_features, val_features))
    train_truth, val_truth = torch.from_numpy(train_labels), torch.from_numpy(val_labels)
    layer = _new_layer(train.shape[1], n_classes, config.seed)
    optimizer = build_optimizer(config.optimizer, layer, config.learning_rate, config.weight_decay)
    history: list[ClassifierEpoch] = []
    best: tuple[ClassifierEpoch, nn.Linear] | None = None
    for epoch in range(1, config.epochs + 1):
        rate = cosine_learning_rate(epoch - 1, config.epochs, config.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, accuracy = _train_epoch(layer, optimizer, train, train_truth, config, epoch)
        with torch.inference_mode():
            logits = layer(val)
            val_loss = F.cross_entropy(logits, val_truth).item()
            val_accuracy = (logits.argmax(1) == val_truth).float().mean().item()
        done = ClassifierEpoch(protocol, epoch, loss, accuracy, val_loss, val_accuracy, rate)
        history.append(done)
        if best is None or done.rank > best[0].rank:
            best = done, copy.deepcopy(layer)
    assert best is not None
    folded = _fold(best[1], mean, deviation)
    return LinearTraining(best[0].epoch, best[0].val_accuracy, history, folded)


def _train_epoch(
    layer: nn.Linear,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    config: EvaluateConfig,
    epoch: int,
) -> tuple[float, float]:
    order = np.random.default_rng(derived_seed(config.seed, "linear", epoch))
    shuffled = torch.from_numpy(order.permutation(len(features)))
    losses, right = 0.0, 0
    for number, batch in enumerate(torch.split(shuffled, config.batch_size), start=1):
        logits = layer(features[batch])
        loss = F.cross_entropy(logits, labels[batch])
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss of linear evaluation is {loss.item()} at epoch {epoch}, step {number}: "
                "lower learning_rate, or look for an encoder that diverged"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += loss.item() * len(batch)
        right += int((logits.argmax(1) == labels[batch]).sum())
    return losses / len(features), right / len(features)


def _scale(features: Features, standardize: bool) -> tuple[Tensor, Tensor]:
    width = features.shape[1]
    if not standardize:
        return torch.zeros(width), torch.ones(width)
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    # A feature that never varies carries nothing; dividing by its rounding error would.
    deviation[deviation <= 1e-6 * np.abs(mean) + 1e-12] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _new_layer(width: int, n_classes: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, n_classes)


def _fold(layer: nn.Linear, mean: Tensor, deviation: Tensor) -> nn.Linear:
    """Return the layer that gives for h what `layer` gives for (h - mean) / deviation."""
    folded = copy.deepcopy(layer)
    weight = layer.weight.detach().double() / deviation.double()
    bias = layer.bias.detach().double() - weight @ mean.double()
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)
    return folded
