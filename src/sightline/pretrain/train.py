"""The training loop of SimCLR."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.config import UserError
from sightline.data import derived_seed
from sightline.data.stream import ArrayStream
from sightline.encoders import Encoder, EncoderSpec, build_encoder
from sightline.pretrain.batches import Batch, ImageBatches, load_batches
from sightline.pretrain.config import PretrainConfig
from sightline.pretrain.head import ProjectionHead
from sightline.pretrain.loss import chance_loss, nt_xent_loss
from sightline.telemetry import announce, count, format_duration, track
from sightline.training import distributed
from sightline.training.batch_norm import synchronise_batch_norms
from sightline.training.devices import autocast, pick_device
from sightline.training.optimizers import build_optimizer
from sightline.training.schedules import cosine_learning_rate

_TIMED_STEPS = 3


@dataclass(frozen=True)
class EpochRecord:
    """One line of `history.csv`."""

    epoch: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds: float


class Pretrained(NamedTuple):
    """What pretraining leaves in memory."""

    encoder: Encoder
    history: list[EpochRecord]
    first_loss: float
    """Loss of the very first step in nats, before anything was learned."""
    chance_loss: float
    """Mean loss in nats of the same batches if they had no signal."""
    embedding_std: float
    """Spread of the last projections: 1 in all directions alike, 0 collapsed to one point."""


class ContrastiveNetwork(nn.Module):
    """The encoder f and the projection head g that both views go through."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        spec = EncoderSpec(config.encoder, config.image_size, config.mean, config.std)
        self.encoder = build_encoder(spec, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(config.seed, "projection head"))
            self.projection_head = ProjectionHead(
                self.encoder.width,
                config.projection_hidden,
                config.projection_out,
                config.projection_layers,
                config.projection_batch_norm,
            )

    def forward(self, views: Tensor) -> Tensor:
        """Return projections (N, projection_out) of views (N, 3, H, W) in 0..1."""
        return cast(Tensor, self.projection_head(self.encoder(views)))


def pretrain(
    images: Sequence[NDArray[np.uint8]],
    config: PretrainConfig,
    groups: Sequence[str] = (),
) -> Pretrained:
    """Learn an encoder from unlabelled images (SimCLR, Chen et al. 2020, arXiv:2002.05709).

    Prints a line an epoch. Under torchrun the processes share every batch: loss and BatchNorm
    span all of it, both views together, so any number of processes computes what one would.

    Args:
        images: Pixels, each (height, width, 3), RGB, 0..255, of any size.
        config: The settings; `PretrainConfig()` is preset `seed`.
        groups: Each image's group; needed where `exclude_group_negatives` is on.

    Returns:
        The encoder on the CPU in eval mode, and the history; the projection head is thrown away.

    Raises:
        UserError: If there are fewer images than a batch, needed groups are missing, or the loss
            is no longer a number.
    """
    _require_groups(groups, len(images), config)
    source = ArrayStream(
        images,
        groups or None,
        batch_size=config.global_batch_size,
        seed=config.seed,
        lanes=config.lanes,
    )
    return pretrain_from(source, config)


def pretrain_from(source: ImageBatches, config: PretrainConfig) -> Pretrained:
    """Learn an encoder as `pretrain` does, from images that are read while it learns.

    Raises:
        UserError: If there are fewer images than a batch, an image cannot be read, or the loss is
            no longer a number.
    """
    if source.images < config.global_batch_size:
        found = source.images
        way_out = f", or set global_batch_size to {found} or less" if found > 1 else ""
        raise UserError(
            f"one batch needs {config.global_batch_size} images, got {found}: "
            f"add images to the train split{way_out}"
        )
    device = pick_device()
    network = ContrastiveNetwork(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.batch_norm == "synchronised" and distributed.world_size() > 1:
        synchronise_batch_norms(network)
    trained = distributed.data_parallel(network, device)
    optimizer = build_optimizer(
        config.optimizer, network, config.learning_rate, config.weight_decay, config.momentum
    )
    steps_per_epoch = source.steps_per_epoch
    batches = load_batches(source, config, device)
    clock = _Clock(config, steps_per_epoch)
    history: list[EpochRecord] = []
    first_loss = math.nan
    chance = 0.0
    projections = torch.empty(0)
    network.train()
    for epoch in range(1, config.epochs + 1):
        rate = cosine_learning_rate(
            epoch - 1, config.epochs, config.learning_rate, config.warmup_epochs
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        start = time.monotonic()
        total = torch.zeros((), dtype=torch.float64)
        for step, batch in enumerate(_epoch_of(batches, epoch, steps_per_epoch), start=1):
            first, second, groups = (part.to(device, non_blocking=True) for part in batch)
            views = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
            with autocast(device, config.precision):
                projections = trained(views)
            own_groups = groups if config.exclude_group_negatives else None
            first, second = projections.chunk(2)
            loss = nt_xent_loss(first, second, config.temperature, own_groups)
            chance += _chance_loss(own_groups, config)
            value = distributed.all_reduce_mean(loss).item()
            _require_finite(value, epoch, step, config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value
            first_loss = value if math.isnan(first_loss) else first_loss
            clock.step_done()
        seconds = time.monotonic() - start
        speed = steps_per_epoch * config.global_batch_size / max(seconds, 1e-9)
        record = EpochRecord(epoch, (total / steps_per_epoch).item(), rate, speed, seconds)
        history.append(record)
        clock.epoch_done(record)
    encoder = network.encoder.cpu().to(memory_format=torch.contiguous_format).eval()
    _require_finite_weights(encoder, config)
    chance /= config.epochs * steps_per_epoch
    return Pretrained(encoder, history, first_loss, chance, _spread(projections))


def _epoch_of(batches: Iterator[Batch], epoch: int, steps: int) -> Iterator[Batch]:
    part = itertools.islice(batches, steps)
    return track(part, f"pretrain: epoch {epoch}", steps) if distributed.is_main() else part


def _require_groups(groups: Sequence[str], images: int, config: PretrainConfig) -> None:
    if config.exclude_group_negatives and not groups:
        raise UserError(
            "exclude_group_negatives needs each image's group, got none: pass groups, one name "
            "for each image (a data set's own are dataset.groups), or set "
            "exclude_group_negatives to false"
        )
    if groups and len(groups) != images:
        raise UserError(f"each image needs one group, got {len(groups)} groups for {images} images")


def _chance_loss(own_groups: Tensor | None, config: PretrainConfig) -> float:
    everyones = None if own_groups is None else distributed.all_gather(own_groups)
    return chance_loss(config.global_batch_size, everyones)


def _require_finite(loss: float, epoch: int, step: int, config: PretrainConfig) -> None:
    if not math.isfinite(loss):
        also = ", or use precision float32" if config.precision != "float32" else ""
        raise UserError(
            f"the loss became {loss} in step {step} of epoch {epoch}, so nothing was published: "
            f"lower learning_rate (it is {config.learning_rate:g}), raise warmup_epochs or "
            f"temperature{also}"
        )


def _require_finite_weights(encoder: Encoder, config: PretrainConfig) -> None:
    for name, tensor in encoder.trunk.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{name} is no longer finite after the last step, so nothing was published: "
                f"lower learning_rate (it is {config.learning_rate:g})"
            )


def _spread(projections: Tensor) -> float:
    everyones = F.normalize(distributed.all_gather(projections.detach()).float(), dim=1)
    return (everyones.std(dim=0).mean() * math.sqrt(everyones.shape[1])).item()


class _Clock:
    """Tells the person who waits how long it takes: once after a few steps, then each epoch."""

    def __init__(self, config: PretrainConfig, steps_per_epoch: int) -> None:
        self._epochs = config.epochs
        self._steps = config.epochs * steps_per_epoch
        self._timed = min(_TIMED_STEPS, self._steps)
        self._done = 0
        self._start = self._first_done = time.monotonic()

    def step_done(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done == self._timed and distributed.is_main():
            # The first step also starts threads and memory pools, so it counts only if alone.
            per_step = (now - self._first_done) / max(1, self._timed - 1)
            whole = now - self._start + per_step * (self._steps - self._timed)
            steps = count(self._steps, "step")
            announce("pretrain", f"{steps}, about {format_duration(whole)} in all")
        if self._done == 1:
            self._first_done = now

    def epoch_done(self, record: EpochRecord) -> None:
        if not distributed.is_main():
            return
        spent = time.monotonic() - self._start
        left = spent / record.epoch * (self._epochs - record.epoch)
        announce(
            "pretrain",
            f"epoch {record.epoch}/{self._epochs}  loss {record.loss:.3f}  "
            f"lr {record.learning_rate:.2e}  {record.images_per_second:.0f} images/s  "
            f"{format_duration(left)} left",
        )
