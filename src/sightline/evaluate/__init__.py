"""The evaluate step: kNN and linear evaluation of a frozen encoder."""

import importlib
from typing import Any

_HOMES = {
    "EvaluateConfig": "config",
    "knn_predict": "neighbours",
    "linear_evaluation": "linear",
    "train_linear": "linear",
}

__all__ = ["EvaluateConfig", "knn_predict", "linear_evaluation", "train_linear"]


def __getattr__(name: str) -> Any:
    # The settings module of this package must load without torch, so its parts come when asked.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
