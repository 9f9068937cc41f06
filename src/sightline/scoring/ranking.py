"""Numbers that follow from the order of the scores: ROC curves and the area under them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

Array = NDArray[np.float64]


def weighted_auc(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Return the area under the ROC curve for many weightings of the same images.

    It is the probability that a positive image scores above a negative one, ties counting half
    (Hanley and McNeil 1982).

    Args:
        positive: Which images are of the class, shape (N,).
        scores: The class's probability for each image, shape (N,).
        weights: How often each image counts, shape (B, N).

    Returns:
        Areas, shape (B,); NaN where only positives or only negatives have weight.
    """
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
    ordered = weights[:, order]
    of_class = positive[order].astype(np.float64)
    positives = np.add.reduceat(ordered * of_class, starts, axis=1)
    negatives = np.add.reduceat(ordered * (1 - of_class), starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(1) * negatives.sum(1)
    areas = np.full(len(weights), np.nan)
    np.divide((positives * below).sum(1), pairs, out=areas, where=pairs > 0)
    return areas


def macro_auc(labels: NDArray[np.integer], probabilities: Array, weights: Array) -> Array:
    """Return the mean one-against-rest area over the classes that have one, shape (B,)."""
    areas = np.stack(
        [
            weighted_auc(labels == c, probabilities[:, c], weights)
            for c in range(len(probabilities.T))
        ]
    )
    exists = ~np.isnan(areas)
    mean = np.full(areas.shape[1], np.nan)
    np.divide(np.nansum(areas, axis=0), exists.sum(0), out=mean, where=exists.any(0))
    return mean


def roc_points(
    positive: NDArray[np.bool_], scores: Array, most_points: int = 200
) -> tuple[list[float], list[float], list[float | None]] | None:
    """Return false and true positive rates and the thresholds between them, corners first and last.

    A score at or above the threshold counts as positive; the first corner has none, because
    nothing is positive there. None if the class has no image, or every image is of the class. A
    curve with more than `most_points` corners is thinned evenly, which moves no point.
    """
    if positive.all() or not positive.any():
        return None
    false_rate, true_rate, thresholds = roc_curve(positive, scores, drop_intermediate=True)
    kept = np.unique(np.linspace(0, len(false_rate) - 1, most_points).round().astype(int))
    shown = [float(value) if np.isfinite(value) else None for value in thresholds[kept]]
    return false_rate[kept].tolist(), true_rate[kept].tolist(), shown
