"""The choices of optimiser and precision, by name; importable without torch for the settings."""

from typing import Literal

OptimizerName = Literal["adam", "sgd", "lars", "adamw"]
Precision = Literal["float32", "bfloat16"]
