"""The training loop of SimCLR."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.data import derived_seed
from sightline.data.stream import ArrayStream
from sightline.encoders import Encoder, EncoderSpec, build_encoder
from sightline.encoders.files import load_weights
from sightline.errors import UserError
from sightline.pretrain.batches import Batch, ImageBatches, load_batches, loader_loss_told
from sightline.pretrain.config import PretrainConfig
from sightline.pretrain.gradient_cache import backward_in_passes, divide
from sightline.pretrain.head import ProjectionHead
from sightline.pretrain.loss import chance_loss, nt_xent_loss
from sightline.pretrain.spread import effective_rank, embedding_std
from sightline.pretrain.watch import EpochRecord, StepRecord, TrainingWatch
from sightline.telemetry import announce
from sightline.telemetry.exporter import Exporter
from sightline.training import distributed
from sightline.training.batch_norm import synchronise_batch_norms
from sightline.training.devices import autocast, pick_device
from sightline.training.optimizers import build_optimizer
from sightline.training.recovery import Recovery, UnfitStateError
from sightline.training.schedules import cosine_learning_rate

if TYPE_CHECKING:
    from sightline.pretrain.probe import NeighbourProbe

_COLLAPSED_STD = 0.02
_EPOCHS_BEFORE_COLLAPSE = 3
_FEW_DIRECTIONS = 5


class Pretrained(NamedTuple):
    """What pretraining leaves in memory."""

    encoder: Encoder
    history: list[EpochRecord]
    step_losses: list[float]
    """Loss of every step in nats."""
    chance_loss: float
    """Mean loss in nats of the same batches if they had no signal."""

    @property
    def first_loss(self) -> float:
        """Loss of the very first step in nats, before anything was learned."""
        return self.step_losses[0]

    @property
    def embedding_std(self) -> float:
        """Spread of the last projections: 1 in all directions alike, 0 collapsed to one point."""
        return self.history[-1].embedding_std


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
    initial_weights: Path | None = None,
) -> Pretrained:
    """Learn an encoder from unlabelled images (SimCLR, Chen et al. 2020, arXiv:2002.05709).

    Prints a line an epoch. Under torchrun the processes share every batch: loss and BatchNorm
    span all of it, both views together, so any number of processes computes what one would.

    Args:
        images: Pixels, each (height, width, 3), RGB, 0..255, of any size.
        config: The settings; `PretrainConfig()` is preset `seed`.
        groups: Each image's group; needed where `exclude_group_negatives` is on.
        initial_weights: A file of the encoder's weights to start from, instead of random ones.

    Returns:
        The encoder on the CPU in eval mode, and the history; the projection head is thrown away.

    Raises:
        UserError: If there are fewer images than a batch, needed groups are missing, the initial
            weights do not fit, or the loss is no longer a number.
    """
    _require_groups(groups, len(images), config)
    source = ArrayStream(
        images,
        groups or None,
        batch_size=config.global_batch_size,
        seed=config.seed,
        lanes=config.lanes,
    )
    return pretrain_from(source, config, initial_weights=initial_weights)


@loader_loss_told()
def pretrain_from(
    source: ImageBatches,
    config: PretrainConfig,
    recovery: Recovery | None = None,
    exporter: Exporter | None = None,
    initial_weights: Path | None = None,
    probe: NeighbourProbe | None = None,
) -> Pretrained:
    """Learn an encoder as `pretrain` does, from images that are read while it learns.

    Args:
        source: The images.
        config: The settings.
        recovery: Where the training is saved, and goes on if it was saved before; on a CPU it
            then computes the same bits as one that was never interrupted.
        exporter: What serves the numbers of the running training.
        initial_weights: As for `pretrain`.
        probe: Labelled images on which rank 0 looks at the encoder every `knn_epochs` epochs.

    Raises:
        UserError: If there are fewer images than a batch, an image cannot be read, the loss or a
            gradient is no longer a number, or the projections have collapsed.
        PreemptedError: After a SIGTERM; `recovery` holds the state.
        WorkersLostError: If a process that draws views was killed, or hangs.
    """
    if source.images < config.global_batch_size:
        found = source.images
        way_out = f", or set global_batch_size to {found} or less" if found > 1 else ""
        raise UserError(
            f"one batch needs {config.global_batch_size} images, got {found}: "
            f"add images to the train split{way_out}"
        )
    watch = TrainingWatch(config, source.steps_per_epoch, exporter or Exporter())
    training = _Training(source, config, watch, initial_weights, recovery)
    if recovery is not None and (state := recovery.load()) is not None:
        training.restore(state)
    batches = load_batches(
        source, config, training.device, start_epoch=training.epoch, start_step=training.step
    )
    training.network.train()
    with training.place_noted():
        while training.epoch <= config.epochs:
            for batch in training.rest_of_epoch(batches):
                training.take_step(batch)
                if training.step < source.steps_per_epoch and recovery is not None:
                    recovery.after_step(training.state, training.global_step, epoch_ends=False)
            training.end_epoch(probe)
            # Before the last epoch's end is saved the result itself is there, a moment later.
            if recovery is not None and training.epoch <= config.epochs:
                recovery.after_step(training.state, training.global_step, epoch_ends=True)
    if recovery is not None:
        recovery.finish()
    watch.close()
    return training.result()


class _Training:
    """Everything that changes while an encoder learns; its state is what a checkpoint holds."""

    def __init__(
        self,
        source: ImageBatches,
        config: PretrainConfig,
        watch: TrainingWatch,
        initial_weights: Path | None,
        recovery: Recovery | None,
    ) -> None:
        self._config = config
        self._recovery = recovery
        self._steps_per_epoch = source.steps_per_epoch
        self.device = pick_device()
        network = ContrastiveNetwork(config)
        if initial_weights is not None:
            load_weights(network.encoder, initial_weights)
        if config.batch_norm == "synchronised" and distributed.world_size() > 1:
            synchronise_batch_norms(network)
        # torch's stubs know no `to` with both a device and a layout, and no types of `backward`.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_compiled = config.compile_network and self.device.type == "cuda"
        computed = cast(nn.Module, torch.compile(self.network)) if is_compiled else self.network
        self._trained = distributed.data_parallel(computed, self.device)
        self._optimizer = build_optimizer(
            config.optimizer,
            self.network,
            config.learning_rate,
            config.weight_decay,
            config.momentum,
        )
        self.epoch = 1
        """The epoch that is trained, counted from 1."""
        self.step = 0
        """Steps of it that are done."""
        self._history: list[EpochRecord] = []
        self._step_losses: list[float] = []
        self._chance_sum = 0.0
        self._projections = torch.empty(0)
        self._gradient_norm = 0.0
        self._watch = watch

    @property
    def global_step(self) -> int:
        """Steps that are done in all epochs."""
        return len(self._step_losses)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: tensors and plain values.

        Neither a loader nor a random generator has a state: the order of the images and every
        view are functions of the seed and of the place in the training.

        Raises:
            UserError: If a weight or a running statistic is not finite: nobody may go on from it.
            UnfitStateError: If this process's projections of the last step have collapsed. That
                may pass in the first epochs; until then nobody should go on from it either.
        """
        self._require_finite_state()
        if self._have_collapsed(embedding_std(self._projections), self._step_losses[-1]):
            raise UnfitStateError("maps all images of its batch to one point")
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "history": [asdict(record) for record in self._history],
            "step_losses": torch.tensor(self._step_losses, dtype=torch.float64),
            "chance_sum": self._chance_sum,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._history = [EpochRecord(**record) for record in state["history"]]
        self._step_losses = state["step_losses"].tolist()
        self._chance_sum = state["chance_sum"]
        self._watch.start_at(self.global_step)

    @contextmanager
    def place_noted(self) -> Iterator[None]:
        """Note on an error how far training was, unless its own words are for the user."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"after step {self.global_step}")
            raise

    def rest_of_epoch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of this epoch that are left, and show how far it is."""
        rate = cosine_learning_rate(
            self.epoch - 1,
            self._config.epochs,
            self._config.learning_rate,
            self._config.warmup_epochs,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        part = itertools.islice(batches, self._steps_per_epoch - self.step)
        self._watch.epoch_begins()
        for batch in self._watch.waiting(part):
            yield batch
            self._watch.step_done(
                StepRecord(
                    self.epoch,
                    self.step,
                    self.global_step,
                    self._step_losses[-1],
                    rate,
                    self._gradient_norm,
                    self._projections,
                )
            )

    def take_step(self, batch: Batch) -> None:
        """Learn from one batch.

        Raises:
            UserError: If the loss or a gradient is not finite; then nothing has been changed.
        """
        config = self._config
        first, second, groups = batch
        passes = divide(len(groups), config.used_lanes // distributed.world_size(), config.passes)
        groups = groups[torch.cat(passes)]
        own_groups = groups if config.exclude_group_negatives else None

        def project(images: Tensor) -> Tensor:
            whole = len(images) == len(groups)
            both = torch.cat([v if whole else v[images] for v in (first, second)])
            views = both.contiguous(memory_format=torch.channels_last).float().div_(255)
            with autocast(self.device, config.precision):
                return cast(Tensor, self._trained(views))

        def cost(first: Tensor, second: Tensor) -> Tensor:
            loss = nt_xent_loss(first, second, config.temperature, own_groups)
            self._require_finite(loss.item(), "loss")
            return loss

        self._optimizer.zero_grad()
        loss, self._projections = backward_in_passes(self._trained, passes, project, cost)
        # After data-parallel training has averaged them, all processes hold the same gradients.
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        self._gradient_norm = nn.utils.get_total_norm(gradients).item()
        self._require_finite(self._gradient_norm, "norm of the gradient")
        self._optimizer.step()
        self._chance_sum += _chance_loss(own_groups, config)
        self._step_losses.append(loss.item())
        self.step += 1

    def end_epoch(self, probe: NeighbourProbe | None) -> None:
        """Note how the epoch went, and begin the next.

        Raises:
            UserError: If all projections point the same way, or no image ever had a negative.
        """
        if self._chance_sum == 0.0:
            raise UserError(
                f"no step of epoch {self.epoch} had anything to tell apart: each time all images "
                "of its batch are of one group, and exclude_group_negatives leaves them out. Look "
                "whether the groups are right (the data report of prepare tells them), raise "
                "global_batch_size, or set exclude_group_negatives to false"
            )
        losses = self._step_losses[-self._steps_per_epoch :]
        seconds, images, waited = self._watch.epoch_ends()
        everyones = distributed.all_gather(self._projections)
        record = EpochRecord(
            epoch=self.epoch,
            loss=math.fsum(losses) / len(losses),
            learning_rate=self._optimizer.param_groups[0]["lr"],
            images_per_second=images / max(seconds, 1e-9),
            data_wait_ratio=waited / max(seconds, 1e-9),
            embedding_std=embedding_std(everyones),
            effective_rank=effective_rank(everyones),
            seconds=seconds,
            knn_accuracy=self._look(probe),
        )
        self._history.append(record)
        self._require_spread(record)
        self._watch.epoch_done(record, self.global_step)
        self._warn_of_few_directions(record)
        self.epoch += 1
        self.step = 0

    def result(self) -> Pretrained:
        """Return what was learned; the projection head is thrown away.

        Raises:
            UserError: If a weight is not finite.
        """
        self._require_finite_state()
        encoder = self.network.encoder.cpu().to(memory_format=torch.contiguous_format).eval()
        chance = self._chance_sum / self.global_step
        return Pretrained(encoder, self._history, self._step_losses, chance)

    def _look(self, probe: NeighbourProbe | None) -> float | None:
        every = self._config.knn_epochs
        if not every or self.epoch % every:
            return None
        accuracy = None
        if probe is not None:
            encoder = self.network.encoder
            accuracy = probe.accuracy(encoder, self.device, distributed.still_at_work)
        distributed.wait_for_main()
        return accuracy

    def _require_finite(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        also = ", or use precision float32" if self._config.precision != "float32" else ""
        raise UserError(
            f"the {what} became {value} in step {self.step + 1} of epoch {self.epoch}, so training "
            f"stopped before it changed the weights: lower learning_rate (it is "
            f"{self._config.learning_rate:g}), raise warmup_epochs or temperature{also}"
            f"{self._elsewhere()}"
        )

    def _require_finite_state(self) -> None:
        for name, tensor in self.network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{name} is no longer finite after step {self.global_step}, so it was neither "
                    f"saved nor published: lower learning_rate (it is "
                    f"{self._config.learning_rate:g}) or raise warmup_epochs{self._elsewhere()}"
                )

    def _elsewhere(self) -> str:
        # Other settings are another run. Without a checkpoint nothing is left of this one. What
        # rank 0 says is shown; all processes stop at the same step.
        if self._recovery is None or self._recovery.are_none():
            return ""
        return ", and choose another out_uri; the checkpoints before it are kept"

    def _have_collapsed(self, std: float, loss: float) -> bool:
        return std < _COLLAPSED_STD and self._is_no_signal(loss)

    def _is_no_signal(self, loss: float) -> bool:
        return loss > 0.98 * self._chance_sum / self.global_step

    def _warn_of_few_directions(self, record: EpochRecord) -> None:
        few = record.effective_rank < _FEW_DIRECTIONS and self._is_no_signal(record.loss)
        # Once, not after every epoch of a night; and not of a start, which training leaves.
        if record.epoch != _EPOCHS_BEFORE_COLLAPSE or not few or not distributed.is_main():
            return
        announce(
            "pretrain",
            f"warning: after {record.epoch} epochs the projections fill "
            f"{record.effective_rank:.0f} of {self._config.projection_out} directions and the loss "
            f"{record.loss:.3f} is that of no signal "
            f"({self._chance_sum / self.global_step:.3f}): nothing is learned yet. If it stays, "
            "the images differ too little for these settings: take preset mri for gray scans, a "
            "larger global_batch_size, or start from given weights",
        )

    def _require_spread(self, record: EpochRecord) -> None:
        chance = self._chance_sum / self.global_step
        collapsed = self._have_collapsed(record.embedding_std, record.loss)
        is_early = record.epoch < _EPOCHS_BEFORE_COLLAPSE
        if collapsed and (not is_early or record.epoch == self._config.epochs):
            way_out = "raise epochs, " if is_early else "which training does not leave again; "
            raise UserError(
                f"the projections have collapsed: after epoch {record.epoch} they all point the "
                f"same way (embedding_std {record.embedding_std:.4f}) and the loss "
                f"{record.loss:.3f} is that of no signal ({chance:.3f}), {way_out}lower "
                f"learning_rate (it is {self._config.learning_rate:g}), raise warmup_epochs, or "
                f"set projection_batch_norm to true{self._elsewhere()}"
            )


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
