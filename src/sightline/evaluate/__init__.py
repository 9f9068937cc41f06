"""The evaluate step: kNN and linear evaluation of a frozen encoder."""

from typing import TYPE_CHECKING

from sightline.lazy import lazy_exports

if TYPE_CHECKING:
    from sightline.evaluate.config import EvaluateConfig
    from sightline.evaluate.linear import linear_evaluation, train_linear

__all__ = ["EvaluateConfig", "linear_evaluation", "train_linear"]

__getattr__ = lazy_exports(
    __name__,
    {
        "EvaluateConfig": "config",
        "linear_evaluation": "linear",
        "train_linear": "linear",
    },
)
