"""SimCLR: an encoder learned from unlabelled images.

The names are loaded when they are first used: the settings live in this package too, and
they must not bring torch along.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.pretrain.augment import SimCLRViews
    from sightline.pretrain.config import PretrainConfig
    from sightline.pretrain.head import ProjectionHead
    from sightline.pretrain.loss import nt_xent_loss
    from sightline.pretrain.train import pretrain

__all__ = ["PretrainConfig", "ProjectionHead", "SimCLRViews", "nt_xent_loss", "pretrain"]

_HOMES = {
    "PretrainConfig": "config",
    "ProjectionHead": "head",
    "SimCLRViews": "augment",
    "nt_xent_loss": "loss",
    "pretrain": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
