"""The finetune step: every layer of the classifier learns, and the same from scratch."""

import importlib
from typing import Any

_HOMES = {
    "FinetuneConfig": "config",
    "draw_label_fraction": "fractions",
    "draw_view": "augment",
    "fine_tune": "training",
}

__all__ = ["FinetuneConfig", "draw_label_fraction", "draw_view", "fine_tune"]


def __getattr__(name: str) -> Any:
    # The settings module of this package must load without torch, so its parts come when asked.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
