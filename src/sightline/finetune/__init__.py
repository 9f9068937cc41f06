"""The finetune step: every layer of the classifier learns, and the same from scratch."""

from typing import TYPE_CHECKING

from sightline.lazy import lazy_exports

if TYPE_CHECKING:
    from sightline.finetune.augment import draw_view
    from sightline.finetune.config import FinetuneConfig
    from sightline.finetune.fractions import draw_label_fraction
    from sightline.finetune.training import fine_tune

__all__ = ["FinetuneConfig", "draw_label_fraction", "draw_view", "fine_tune"]

__getattr__ = lazy_exports(
    __name__,
    {
        "FinetuneConfig": "config",
        "draw_label_fraction": "fractions",
        "draw_view": "augment",
        "fine_tune": "training",
    },
)
