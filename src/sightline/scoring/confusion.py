"""Metrics that follow from confusion counts alone, for one table or for thousands at once.

Counts have the shape (…, C, C): rows are true classes, columns predicted ones. A number that
does not exist is NaN: the recall of a class without test images, the precision of a class that
was never predicted. Averages run over the classes that have test images; a precision that does
not exist counts as 0 there, as it does in scikit-learn, or a classifier could raise its mean by
never predicting a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def confusion_counts(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Count images by true and predicted class, shape (C, C)."""
    cells = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(counts: Array) -> Array:
    """Return the share of images that are predicted right."""
    return _ratio(_diagonal(counts).sum(-1), counts.sum((-2, -1)))


def precision_per_class(counts: Array) -> Array:
    """Return, for each class, the share of its predictions that are right."""
    return _ratio(_diagonal(counts), counts.sum(-2))


def recall_per_class(counts: Array) -> Array:
    """Return, for each class, the share of its images that are found."""
    return _ratio(_diagonal(counts), counts.sum(-1))


def f1_per_class(counts: Array) -> Array:
    """Return the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * _diagonal(counts), counts.sum(-1) + counts.sum(-2))


def _weighted(per_class: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def average(counts: Array) -> Array:
        support = counts.sum(-1)
        return _ratio((np.nan_to_num(per_class(counts)) * support).sum(-1), support.sum(-1))

    return average


def _macro(per_class: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def average(counts: Array) -> Array:
        present = (counts.sum(-1) > 0).astype(np.float64)
        return _ratio((np.nan_to_num(per_class(counts)) * present).sum(-1), present.sum(-1))

    return average


CONFUSION_METRICS: Mapping[str, Callable[[Array], Array]] = {
    "accuracy": accuracy,
    "balanced_accuracy": _macro(recall_per_class),
    "precision_weighted": _weighted(precision_per_class),
    "recall_weighted": _weighted(recall_per_class),
    "f1_weighted": _weighted(f1_per_class),
    "precision_macro": _macro(precision_per_class),
    "recall_macro": _macro(recall_per_class),
    "f1_macro": _macro(f1_per_class),
}


def _diagonal(counts: Array) -> Array:
    return np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)


def _ratio(numerator: Array, denominator: Array) -> Array:
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    ratio = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
