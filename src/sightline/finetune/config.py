"""Settings of full fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sightline.config import Seed, StepConfig, StepUris
from sightline.training.names import Precision

Share = Annotated[float, Field(gt=0, lt=1)]


class FinetuneUris(StepUris):
    """Where the pretrained encoder and the labelled images are, and where the classifier goes."""

    encoder_uri: str
    """Folder of the finished pretrain step, or a notebook's own .pth or .pt file of a ResNet-18."""
    dataset_uri: str = ""
    """Labelled data set version that prepare handed on; left out, the step does no work."""
    out_uri: str
    """Folder for classifiers, metrics, predictions and features; must hold no result yet."""


class FinetuneConfig(StepConfig):
    """How the whole classifier is trained, and the same network from scratch beside it."""

    seed: Seed = 0
    """Seed of the head, the scratch network, the order of images, their views and the bootstrap."""
    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Side in pixels that images are brought to; 0 means the size the encoder learned from."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Passes over the training images; the epoch that is best on the validation split is kept."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32
    """Images per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.001
    """Highest learning rate; it falls along a cosine, once an epoch."""
    encoder_learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a pretrained encoder over that of the new head; scratch always has 1."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each weight that is added to its gradient (adam, sgd) or taken off it (adamw)."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser of every layer; sgd has momentum 0.9."""
    precision: Precision = "float32"
    """Precision of the training; bfloat16 only where the processor has it natively."""
    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least share of an image's area that a training crop covers; 1 resizes the whole image."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Training images are turned by a random angle of at most this many degrees either way."""
    flip_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a training image is mirrored left to right."""
    scratch: bool = True
    """Train the same network from random initialisation too, with the same settings and images."""
    label_fractions: tuple[Share, ...] = ()
    """Further trainings with these shares of the labels, drawn by group (patient), each with as
    many optimiser steps as the whole; each costs about as long as the main training."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples of the groups (patients) behind each 95 % interval."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        # Chen et al. 2020, appendix B.5: 0.05 x batch / 256, crops and flips only.
        "paper": {
            "epochs": 30,
            "batch_size": 256,
            "learning_rate": 0.05,
            "optimizer": "sgd",
            "crop_scale_min": 0.08,
        },
        "mri": {
            "image_size": 96,
            "epochs": 12,
            "precision": "bfloat16",
            "weight_decay": 1e-4,
            "rotation_degrees": 15.0,
        },
        "demo": {
            "image_size": 64,
            "epochs": 8,
            "precision": "bfloat16",
            "rotation_degrees": 10.0,
            "bootstrap_samples": 500,
        },
    }
