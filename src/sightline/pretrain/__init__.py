"""SimCLR: an encoder learned from unlabelled images.

The names are loaded when they are first used: the settings live in this package too, and
they must not bring torch along.
"""

from typing import TYPE_CHECKING

from sightline.lazy import lazy_exports

if TYPE_CHECKING:
    from sightline.pretrain.augment import SimCLRViews
    from sightline.pretrain.config import PretrainConfig
    from sightline.pretrain.head import ProjectionHead
    from sightline.pretrain.loss import nt_xent_loss
    from sightline.pretrain.train import pretrain

__all__ = ["PretrainConfig", "ProjectionHead", "SimCLRViews", "nt_xent_loss", "pretrain"]

__getattr__ = lazy_exports(
    __name__,
    {
        "PretrainConfig": "config",
        "ProjectionHead": "head",
        "SimCLRViews": "augment",
        "nt_xent_loss": "loss",
        "pretrain": "train",
    },
)
