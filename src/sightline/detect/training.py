"""Training a detector with Ultralytics' trainer, starting from exactly the weights it is given."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.detect.config import DetectConfig
from sightline.detect.yolo_folder import YoloFolder
from sightline.encoders.yolo import import_ultralytics
from sightline.encoders.yolo_detector import Detector
from sightline.encoders.yolo_scoring import find_all
from sightline.errors import UserError
from sightline.scoring.detection import headline_numbers
from sightline.telemetry import announce, format_duration
from sightline.training.devices import pick_device, supports_bfloat16

import_ultralytics()

from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils import LOGGER  # noqa: E402

_FINAL_LEARNING_RATE_SHARE = 0.01
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}
_TIMED_STEPS = 4


@dataclass
class Training:
    """A finished training: the detector of its best epoch, and how it got there."""

    detector: Detector
    best_epoch: int
    history: list[dict[str, Any]] = field(default_factory=list)


def train_detector(
    detector: Detector,
    protocol: str,
    images: YoloFolder,
    config: DetectConfig,
    on_timed: Callable[[float], None] | None = None,
) -> Training:
    """Train a detector and return it as it was in its best epoch on the validation split.

    Args:
        detector: With the backbone to start from; it is not changed. Training takes its image
            size, whatever the settings say.
        protocol: Its name in messages and in the history; `scratch` trains its backbone at the
            learning rate of the rest.
        images: Annotated images of train and val, from `write_yolo_folder`.
        config: The step's settings.
        on_timed: Told the seconds of one epoch, measured over the first steps.

    Raises:
        UserError: If the loss is no number, memory runs out, or the backbone that training would
            start from is not the given one.
    """
    config = config.model_copy(update={"image_size_px": detector.spec.image_size_px})
    with _quiet():
        trainer = _Trainer(detector, protocol, images, config, on_timed)
        trainer.train()
    network = deepcopy(detector.network)
    network.load_state_dict(trainer.best_state)
    trained = replace(detector, network=network.eval())
    return Training(trained, trainer.best_epoch, trainer.rows)


def backbone_digest(network: nn.Module) -> str:
    """Return the sha256 over the names and bytes of every tensor of the encoder inside."""
    digest = hashlib.sha256()
    prefix = "model.0."
    for name, tensor in network.state_dict().items():
        if name.startswith(prefix):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def batch_norm_constants(network: nn.Module) -> list[tuple[float, float | None]]:
    """Return eps and momentum of each BatchNorm; they are part of the function, no weights."""
    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    return [(norm.eps, norm.momentum) for norm in norms]


class _Trainer(DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' training loop around our network, our scores and our way of keeping weights.

    `run_callbacks` is overridden, so none of Ultralytics' integrations (trackers, its hub) runs.
    """

    def __init__(
        self,
        detector: Detector,
        protocol: str,
        images: YoloFolder,
        config: DetectConfig,
        on_timed: Callable[[float], None] | None,
    ) -> None:
        self.given = detector
        self.protocol = protocol
        self.config = config
        self.images = images
        self.on_timed = on_timed
        self.rows: list[dict[str, Any]] = []
        self.best_state: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.best_key: tuple[float, float] = (-1.0, -1.0)
        self.step_started: list[float] = []
        super().__init__(overrides=_arguments(config, images.path / "run"))

    def run_callbacks(self, event: str) -> None:
        handlers: dict[str, Callable[[], None]] = {
            "on_pretrain_routine_end": self.check_start,
            "on_train_batch_start": self.time_step,
        }
        handlers.get(event, lambda: None)()

    def get_dataset(self) -> dict[str, Any]:
        names = dict(enumerate(self.given.spec.classes))
        folders = {split: str(self.images.images(split)) for split in ("train", "val")}
        return {**folders, "names": names, "nc": len(names), "channels": 3}

    def setup_model(self) -> None:
        # Left to itself, the trainer builds a new network from YAML and loses the weights.
        self.model = deepcopy(self.given.network).train()

    def check_start(self) -> None:
        expected = backbone_digest(self.given.network)
        constants = batch_norm_constants(self.given.network)
        for name, network in (("model", self.model), ("moving average", self.ema.ema)):
            same_weights = backbone_digest(network) == expected
            if not same_weights or batch_norm_constants(network) != constants:
                raise UserError(
                    f"{self.protocol}: the {name} that training would start from is not the given "
                    "backbone; nothing was trained: this version of Ultralytics is not supported"
                )
        found = len(self.train_loader.dataset)
        if found != len(self.images.train):
            raise UserError(
                f"Ultralytics reads {found} of {len(self.images.train)} training images: images "
                "must be at least 10 pixels wide and high, run prepare again"
            )

    def time_step(self) -> None:
        self.step_started.append(time.monotonic())
        if len(self.step_started) == _TIMED_STEPS and self.on_timed is not None:
            # The first step also warms up caches, so it is left out.
            elapsed = self.step_started[-1] - self.step_started[1]
            self.on_timed(elapsed / (_TIMED_STEPS - 2) * len(self.train_loader))

    def _build_train_pipeline(self) -> None:
        if self.optimizer is not None:  # Ultralytics would go on with half the batch, unasked
            raise UserError(
                f"{self.protocol}: memory is too small for batches of {self.config.batch_size} "
                f"images of {self.config.image_size_px} px: lower batch_size or image_size_px"
            )
        try:
            super()._build_train_pipeline()
        except ValueError as error:  # such as a last batch of one image, too little for BatchNorm
            raise UserError(
                f"{self.protocol}: Ultralytics cannot train with batch_size "
                f"{self.config.batch_size} and image_size_px {self.config.image_size_px} on "
                f"{len(self.images.train)} images, choose others: {error}"
            ) from None

    def build_optimizer(
        self, model: nn.Module, *arguments: Any, **options: Any
    ) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *arguments, **options)
        if self.config.optimizer == "adamw":
            # Tensor by tensor, AdamW takes a quarter of a CPU's training time.
            for group in optimizer.param_groups:
                group["fused"] = True
        share = self.config.backbone_learning_rate_share
        if share < 1 and self.protocol != "scratch":
            _slow_down(optimizer, self.model.model[0], share)
        return optimizer

    def optimizer_step(self) -> None:
        if not torch.isfinite(self.loss):
            raise UserError(
                f"{self.protocol}: the loss became {self.loss.item()} in epoch {self.epoch + 1} "
                f"of {self.epochs}: lower learning_rate (now {self.config.learning_rate:g}) or "
                "raise warmup_epochs; nothing was published"
            )
        super().optimizer_step()

    def validate(self) -> tuple[dict[str, float], float]:
        now = replace(self.given, network=self.ema.ema)
        scored = find_all(now, self.images.val, self.images.read_val())
        numbers = headline_numbers(scored, scored.even_weights, self.given.spec.confidence)
        key = tuple(0.0 if math.isnan(numbers[n]) else numbers[n] for n in ("map50_95", "map50"))
        # A tie goes to the later epoch: early on everything is 0, and later is better trained.
        if key >= self.best_key:
            self.best_key = (key[0], key[1])
            self.best_epoch = self.epoch + 1
            state = self.ema.ema.state_dict()
            self.best_state = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.add_row(numbers)
        return numbers, key[0]

    def add_row(self, numbers: Mapping[str, float]) -> None:
        losses = {name.removesuffix("_loss"): float(v) for name, v in self.tloss.items()}
        row: dict[str, Any] = {"protocol": self.protocol, "epoch": self.epoch + 1}
        row.update({f"{name}_loss": round(value, 6) for name, value in losses.items()})
        row.update({name: round(numbers[name], 6) for name in ("map50", "map50_95")})
        row["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        self.rows.append(row)
        spent = time.time() - self.train_time_start
        left = spent / (self.epoch + 1) * (self.epochs - self.epoch - 1)
        announce(
            "detect",
            f"{self.protocol}, epoch {self.epoch + 1}/{self.epochs}: "
            f"loss {sum(losses.values()):.3f}, validation mAP50 {numbers['map50']:.3f}, "
            f"mAP50-95 {numbers['map50_95']:.3f}, about {format_duration(left)} left",
        )

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Keep no CSV; the history is ours."""

    def save_model(self) -> bool:
        return False  # the best weights stay in memory, in full precision and without pickle

    def final_eval(self) -> None:
        """Leave the end to the step: it scores once, on the test split."""


def _arguments(config: DetectConfig, folder: Path) -> dict[str, Any]:
    device = pick_device()
    color = config.color_gain
    return {
        "task": "detect",
        "mode": "train",
        "model": "sightline.yaml",  # a name only: setup_model gives the network
        "data": "sightline",
        "device": "cpu" if device.type == "cpu" else str(device.index or 0),
        "project": str(folder.parent),
        "name": folder.name,
        "exist_ok": True,
        "imgsz": config.image_size_px,
        "epochs": config.epochs,
        "patience": 0,
        "batch": config.batch_size,
        "nbs": config.batch_size,  # otherwise gradients accumulate to 64 images and decay scales
        "optimizer": _OPTIMIZERS[config.optimizer],
        "lr0": config.learning_rate,
        "lrf": _FINAL_LEARNING_RATE_SHARE,
        "cos_lr": True,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        "warmup_epochs": config.warmup_epochs,
        "warmup_bias_lr": 0.0,
        "warmup_momentum": min(0.8, config.momentum),
        # Asking for any other precision makes Ultralytics fetch a model to test it with.
        "amp": "bf16" if _uses_bfloat16(config, device) else False,
        "mosaic": config.mosaic_probability,
        "close_mosaic": min(config.mosaic_off_epochs, config.epochs),
        "fliplr": config.flip_probability,
        "scale": config.scale_gain,
        "hsv_h": 0.015 * color,
        "hsv_s": 0.7 * color,
        "hsv_v": 0.4 * color,
        "augmentations": [],  # the same whether or not albumentations is installed
        "workers": config.loader_processes,
        "seed": config.seed % 2**31,
        "deterministic": True,
        "plots": False,
        "save": False,
        "val": True,
        "verbose": False,
    }


def _uses_bfloat16(config: DetectConfig, device: torch.device) -> bool:
    if config.precision == "float32":
        return False
    # Ultralytics refuses bfloat16 on a CPU, even on one that computes it.
    served = device.type == "cuda" and supports_bfloat16(device)
    if not served:
        announce("detect", f"bfloat16 needs a GPU that has it, so float32 is used on {device.type}")
    return served


def _slow_down(optimizer: torch.optim.Optimizer, backbone: nn.Module, share: float) -> None:
    inside = {id(parameter) for parameter in backbone.parameters()}
    for group in list(optimizer.param_groups):
        slow = [p for p in group["params"] if id(p) in inside]
        if not slow:
            continue
        group["params"] = [p for p in group["params"] if id(p) not in inside]
        optimizer.add_param_group({**group, "params": slow, "lr": group["lr"] * share})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
