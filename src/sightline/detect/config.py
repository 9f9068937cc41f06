"""Settings of the detection step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sightline.config import Seed, StepConfig, StepUris

Share = Annotated[float, Field(ge=0, le=1)]


class DetectUris(StepUris):
    """Where the encoder and the annotated images lie, and where the detectors go."""

    encoder_uri: str
    """Folder of the finished pretrain step whose encoder becomes the detector's backbone."""
    dataset_uri: str
    """Data set version with boxes; empty: no boxes were given, and the step does no work."""
    out_uri: str
    """Folder for the detectors, their numbers and pictures; must hold no result yet."""


class DetectConfig(StepConfig):
    """How YOLOv12 is trained on the encoder, and again from scratch with the same settings."""

    detector_scale: Literal["n", "s", "m"] = "n"
    """Size of YOLOv12's neck and head: n(ano), s(mall) or m(edium); a yolo12 encoder brings its
    own, and this setting is then not used."""
    image_size_px: Annotated[int, Field(ge=32, le=2048, multiple_of=32)] = 640
    """Side of the square the images are fitted into, in pixels; a multiple of 32."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training images, for each of the two detectors."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Images a step of the optimiser sees; nothing is accumulated beyond it."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser: adamw, or sgd with Nesterov momentum. Ultralytics' own "auto" is not offered,
    because it ignores the learning rate."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.001
    """Learning rate after the warm-up; it falls along a cosine to a hundredth."""
    backbone_learning_rate_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a pretrained backbone as a share of learning_rate; below 1 it keeps more of
    what pretraining learned. Scratch always has 1."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum, or AdamW's first decay rate."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0005
    """Weight decay of the weights; biases and BatchNorm have none."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 3.0
    """Epochs during which the learning rate rises from 0; at least the last epoch is regular."""
    mosaic_probability: Share = 1.0
    """Share of training images that are put together from four."""
    mosaic_off_epochs: Annotated[int, Field(ge=0)] = 10
    """Last epochs without mosaics, so that the detector ends on images as they are."""
    flip_probability: Share = 0.5
    """Share of training images that are mirrored left to right."""
    scale_gain: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Training images are enlarged or shrunk by up to this share."""
    color_gain: Share = 1.0
    """Strength of the changes of hue, saturation and brightness; 1 is Ultralytics' own, 0 none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the training's forward pass; scores are always computed in float32."""
    confidence: Share = 0.0
    """Confidence from which a finding counts for precision, recall and pictures; 0: the one with
    the best mean F1 on the validation split."""
    scratch: bool = True
    """Also train the same detector with a random backbone, to show what pretraining is worth."""
    bootstrap_samples: Annotated[int, Field(ge=10)] = 200
    """Resamples of the test split's groups behind each interval."""
    picture_count: Annotated[int, Field(ge=0, le=200)] = 12
    """Test images that are drawn with their true and found boxes, per detector."""
    loader_processes: Annotated[int, Field(ge=0)] = 4
    """Processes that prepare training images; on a CPU the training does it itself."""
    max_local_gib: Annotated[float, Field(gt=0)] = 50.0
    """Most space, in GiB, that the images of train and val may take on this machine's disk while
    the detectors train; Ultralytics reads files. A larger set is refused before anything is
    read."""
    seed: Seed = 0
    """Seed of the head, of the random backbone, of order, augmentations and resamples."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        "paper": {
            # Tian et al. 2025 (YOLOv12): SGD, 600 epochs, lr 0.01, momentum 0.937.
            "epochs": 600,
            "batch_size": 32,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "momentum": 0.937,
        },
        "mri": {
            "image_size_px": 256,
            "mosaic_probability": 0.5,
            "scale_gain": 0.3,
            "color_gain": 0.3,
        },
        "demo": {
            "image_size_px": 64,
            "epochs": 12,
            "batch_size": 8,
            "warmup_epochs": 1.0,
            "mosaic_probability": 0.0,
            "mosaic_off_epochs": 0,
            "scale_gain": 0.2,
            "color_gain": 0.3,
            "picture_count": 6,
            "loader_processes": 0,
        },
    }
