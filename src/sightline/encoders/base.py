"""The encoder protocol: images in 0..1 in, features out; normalisation lives inside."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sightline.encoders.names import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class EncoderSpec:
    """What must be known to rebuild an encoder around a state dict."""

    name: str
    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON types."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EncoderSpec:
        """Rebuild a spec from `to_json`'s values."""
        mean, std = (tuple(float(value) for value in values[key]) for key in ("mean", "std"))
        return cls(values["name"], int(values["image_size"]), cast(Any, mean), cast(Any, std))


class Encoder(nn.Module):
    """An image encoder f of SimCLR: h = f(x).

    `trunk` holds every learned tensor under the names of the library it comes from, so its
    state dict is what gets saved. The mean and standard deviation are the spec's, not weights.
    """

    trunk: nn.Module
    width: int
    """Number of values in a feature vector h."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Bring images (N, 3, H, W) in 0..1 to the scale the trunk was trained on."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        return (images - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, width) of images (N, 3, H, W) in 0..1."""
        return self.feature_maps(images)[-1].mean(dim=(2, 3))

    @abstractmethod
    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at strides 8, 16 and 32 of images (N, 3, H, W) in 0..1."""


_CLASSES = {
    "resnet18": "sightline.encoders.resnet:ResNetEncoder",
    "resnet50": "sightline.encoders.resnet:ResNetEncoder",
    "yolo12n": "sightline.encoders.yolo:YoloEncoder",
    "yolo12s": "sightline.encoders.yolo:YoloEncoder",
    "yolo12m": "sightline.encoders.yolo:YoloEncoder",
}


def build_encoder(spec: EncoderSpec, seed: int | None = None) -> Encoder:
    """Build an encoder from random initialisation.

    Args:
        spec: Which encoder, and the scale of its input.
        seed: Seed of the initialisation; None draws from torch's global generator.

    Raises:
        UserError: If the encoder needs the extra `sightline[detect]` and it is not installed.
    """
    module, _, name = _CLASSES[spec.name].partition(":")
    encoder_class = getattr(importlib.import_module(module), name)
    if seed is None:
        return cast(Encoder, encoder_class(spec))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast(Encoder, encoder_class(spec))
