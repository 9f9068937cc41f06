"""The encoders there are, by name; importable without torch for the settings' sake."""

from typing import Literal

EncoderName = Literal["resnet18", "resnet50", "yolo12n", "yolo12s", "yolo12m"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
