"""Full fine-tuning: every layer learns, and the epoch that validates best is kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from sightline.encoders import Classifier, predict_probabilities, resize_images
from sightline.encoders.inputs import to_unit_range
from sightline.errors import UserError
from sightline.finetune.augment import steps_per_epoch, training_batches
from sightline.finetune.config import FinetuneConfig
from sightline.telemetry import announce, format_duration, track
from sightline.training.devices import autocast, pick_device
from sightline.training.history import ClassifierEpoch, ClassifierTraining
from sightline.training.optimizers import build_optimizer
from sightline.training.schedules import cosine_learning_rate

Images = Sequence[NDArray[np.uint8]]
Labels = NDArray[np.int64]

_EVALUATION_BATCH_SIZE = 64


def fine_tune(
    classifier: Classifier,
    train_images: Images,
    train_labels: Labels,
    val_images: Images,
    val_labels: Labels,
    config: FinetuneConfig | None = None,
    *,
    protocol: str = "finetuned",
) -> ClassifierTraining:
    """Train a classifier in place, every layer of it, and leave it with its best epoch's weights.

    The best is the highest validation accuracy, among equals the lowest validation loss.

    Args:
        classifier: An encoder and its new head.
        train_images: Images to learn from, each (height, width, 3), RGB, 0..255, of any size.
        train_labels: Their class indices, shape (N,).
        val_images: Images that choose the epoch; resized whole, never augmented.
        val_labels: Their class indices.
        config: Settings; the defaults if left out.
        protocol: Name in the history; `scratch` trains its encoder at the head's learning rate.

    Raises:
        UserError: If a loss is not finite.
    """
    config = config or FinetuneConfig()
    device = pick_device()
    size = config.image_size or classifier.encoder.spec.image_size
    classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _build_optimizer(classifier, config, protocol)
    truth = torch.from_numpy(train_labels).to(device)
    val_resized = list(resize_images(val_images, size).permute(0, 2, 3, 1).numpy())
    history: list[ClassifierEpoch] = []
    best: tuple[ClassifierEpoch, dict[str, Tensor]] | None = None
    start = time.monotonic()
    for epoch in range(1, config.epochs + 1):
        rate = cosine_learning_rate(epoch - 1, config.epochs, config.learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss, accuracy = _train_epoch(
            classifier, optimizer, train_images, truth, size, config, epoch, protocol
        )
        probabilities = predict_probabilities(
            classifier, val_resized, size, _EVALUATION_BATCH_SIZE, device
        )
        val_loss, val_accuracy = _validate(probabilities, val_labels, protocol, epoch)
        done = ClassifierEpoch(protocol, epoch, loss, accuracy, val_loss, val_accuracy, rate)
        history.append(done)
        if best is None or done.rank > best[0].rank:
            best = done, copy.deepcopy(classifier.state_dict())
        left = (time.monotonic() - start) / epoch * (config.epochs - epoch)
        announce(
            "finetune",
            f"{protocol} epoch {epoch}/{config.epochs}: loss {loss:.3f}, validation accuracy "
            f"{val_accuracy:.1%}, about {format_duration(left)} left",
        )
    assert best is not None
    classifier.load_state_dict(best[1])
    classifier.eval()
    return ClassifierTraining(best[0].epoch, best[0].val_accuracy, history)


def seconds_per_step(classifier: Classifier, images: Images, config: FinetuneConfig) -> float:
    """Measure an optimiser step on a copy of the classifier."""
    trial = copy.deepcopy(classifier)
    device = pick_device()
    size = config.image_size or trial.encoder.spec.image_size
    trial.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _build_optimizer(trial, config, "scratch")
    labels = torch.zeros(len(images), dtype=torch.int64, device=device)
    few = images[: 2 * config.batch_size]
    seconds = []
    trial.train()
    start = time.perf_counter()
    for views, places in training_batches(few, size, config, epoch=0):
        _step(trial, optimizer, views, labels[torch.from_numpy(places).to(device)], config, device)
        seconds.append((time.perf_counter() - start) / len(places))
        start = time.perf_counter()
    # The first step also allocates and compiles, so the fastest is what the rest will cost.
    return min(seconds) * min(config.batch_size, len(images))


def _build_optimizer(classifier: Classifier, config: FinetuneConfig, protocol: str) -> Optimizer:
    optimizer = build_optimizer(
        config.optimizer, classifier.head, config.learning_rate, config.weight_decay
    )
    optimizer.param_groups[0]["factor"] = 1.0
    factor = 1.0 if protocol == "scratch" else config.encoder_learning_rate_factor
    encoder = {"params": list(classifier.encoder.parameters()), "factor": factor}
    optimizer.add_param_group(encoder)
    return optimizer


def _train_epoch(
    classifier: Classifier,
    optimizer: Optimizer,
    images: Images,
    truth: Tensor,
    size: int,
    config: FinetuneConfig,
    epoch: int,
    protocol: str,
) -> tuple[float, float]:
    classifier.train()
    losses, right = 0.0, 0
    steps = steps_per_epoch(len(images), config.batch_size)
    batches = training_batches(images, size, config, epoch)
    for number, (views, places) in enumerate(
        track(batches, f"finetune: {protocol} epoch {epoch}, step", steps), start=1
    ):
        labels = truth[torch.from_numpy(places).to(truth.device)]
        loss, logits = _step(classifier, optimizer, views, labels, config, truth.device)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of {protocol} is {loss} at epoch {epoch}, step {number} of {steps} "
                f"(optimiser step {(epoch - 1) * steps + number}): lower learning_rate"
                + (", or set precision to float32" if config.precision != "float32" else "")
            )
        losses += loss * len(places)
        right += int((logits.argmax(1) == labels).sum())
    return losses / len(images), right / len(images)


def _step(
    classifier: Classifier,
    optimizer: Optimizer,
    views: Tensor,
    labels: Tensor,
    config: FinetuneConfig,
    device: torch.device,
) -> tuple[float, Tensor]:
    pixels = to_unit_range(views, device).contiguous(memory_format=torch.channels_last)
    with autocast(device, config.precision):
        logits = classifier(pixels)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), logits.detach()


def _validate(
    probabilities: NDArray[np.float64], labels: Labels, protocol: str, epoch: int
) -> tuple[float, float]:
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{protocol} gives no finite probabilities after epoch {epoch}: lower learning_rate"
        )
    of_truth = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean()
    return float(loss), float((probabilities.argmax(1) == labels).mean())
