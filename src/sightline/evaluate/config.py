"""Settings of the evaluation of a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sightline.config import Seed, StepConfig, StepUris
from sightline.training.names import Precision


class EvaluateUris(StepUris):
    """Where the frozen encoder and the labelled images are, and where the numbers go."""

    encoder_uri: str
    """Folder of the finished pretrain step, or a notebook's own .pth or .pt file of a ResNet-18."""
    dataset_uri: str = ""
    """Labelled data set version that prepare handed on; left out, the step does no work."""
    out_uri: str
    """Folder for weights, metrics, predictions and features; must hold no result yet."""


class EvaluateConfig(StepConfig):
    """How one linear layer is trained on frozen features, and how neighbours vote."""

    seed: Seed = 0
    """Seed of the linear layer, the order of its images, the random encoder and the bootstrap."""
    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Side in pixels that images are resized to; 0 means the size the encoder learned from."""
    encode_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images encoded at once; changes memory and speed, no number."""
    precision: Precision = "float32"
    """Precision the encoder computes in; bfloat16 only where the processor has it natively."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Passes of the linear layer over the training features."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32
    """Feature vectors per step of the linear layer."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.01
    """Highest learning rate of the linear layer; it falls along a cosine, once an epoch."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each weight of the linear layer that is added to its gradient."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser of the linear layer; sgd has momentum 0.9."""
    standardize_features: bool = True
    """Bring each feature to mean 0 and deviation 1 over the training images before the linear
    layer; folded into its weights at the end, so the saved layer takes plain features."""
    knn_neighbours: Annotated[int, Field(ge=1, le=1000)] = 20
    """How many of the most similar labelled images vote; all of them if there are fewer."""
    knn_temperature: Annotated[float, Field(gt=0, le=10)] = 0.07
    """Divisor of the cosine similarity in a neighbour's vote exp(similarity / temperature)."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples of the groups (patients) behind each 95 % interval."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        # Chen et al. 2020, appendix B.6: 0.1 x batch / 256, 90 epochs, no weight decay.
        "paper": {
            "epochs": 90,
            "batch_size": 256,
            "learning_rate": 0.1,
            "optimizer": "sgd",
            "standardize_features": False,
        },
        "mri": {"weight_decay": 0.03},
        "demo": {"epochs": 30, "bootstrap_samples": 500},
    }
