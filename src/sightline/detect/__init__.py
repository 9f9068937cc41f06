"""YOLOv12 with the pretrained encoder as its backbone, and the same detector from scratch.

The names are loaded when they are first used: the settings live in this package too, and they
must bring neither torch nor Ultralytics along.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.detect.config import DetectConfig
    from sightline.detect.training import train_detector

__all__ = ["DetectConfig", "train_detector"]

_HOMES = {"DetectConfig": "config", "train_detector": "training"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
