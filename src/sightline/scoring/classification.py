"""One protocol's entry in `metrics.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import UserError
from sightline.scoring.confusion import (
    CONFUSION_METRICS,
    confusion_counts,
    f1_per_class,
    precision_per_class,
    recall_per_class,
)
from sightline.scoring.intervals import GroupResamples, interval, resampled_macro_auc
from sightline.scoring.ranking import macro_auc, roc_points, weighted_auc


def score_classification(
    labels: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    labels_used: int,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score one protocol on the test split.

    Args:
        labels: True class indices, shape (N,).
        probabilities: Class probabilities, shape (N, C), rows summing to 1; the largest is the
            prediction, the first of equal ones.
        classes: The C class names in the order of their indices.
        groups: Each image's group (patient), N names; the intervals are over groups.
        labels_used: How many labelled images the protocol learned from.
        bootstrap_samples: Number of resamples of the intervals.
        seed: Seed of the resamples.

    Returns:
        The entry of `docs/architecture.md`, section Numbers, as JSON types: shares in 0..1, None
        where a number does not exist. `counts` has true classes as rows.

    Raises:
        UserError: If there is no image, or shapes, labels or probabilities make no sense.
    """
    truth, scores = _checked(labels, probabilities, classes, groups)
    predicted = scores.argmax(axis=1)
    counts = confusion_counts(truth, predicted, len(classes))
    resamples = GroupResamples.draw(groups, bootstrap_samples, seed)
    resampled = resamples.confusion_counts(truth, predicted, len(classes))
    once = np.ones((1, len(truth)))

    entry: dict[str, Any] = {
        "labels_used": int(labels_used),
        "test_images": len(truth),
        "test_groups": resamples.groups,
    }
    for name, metric in CONFUSION_METRICS.items():
        value = float(metric(counts.astype(np.float64)))
        entry[name] = interval(value, metric(resampled), resamples.groups)
    entry["auc_macro"] = interval(
        float(macro_auc(truth, scores, once)[0]),
        resampled_macro_auc(truth, scores, resamples),
        resamples.groups,
    )
    areas = [weighted_auc(truth == c, scores[:, c], once)[0] for c in range(len(classes))]
    entry["per_class"] = _per_class(counts, areas, classes)
    entry["confusion_matrix"] = {"classes": list(classes), "counts": counts.tolist()}
    entry["roc"] = {}
    for index, name in enumerate(classes):
        points = roc_points(truth == index, scores[:, index])
        entry["roc"][name] = points and {
            "false_positive_rate": points[0],
            "true_positive_rate": points[1],
            "threshold": points[2],
        }
    return entry


def _per_class(
    counts: NDArray[np.int64], areas: Sequence[float], classes: Sequence[str]
) -> dict[str, Any]:
    table = counts.astype(np.float64)
    columns = zip(
        classes,
        precision_per_class(table),
        recall_per_class(table),
        f1_per_class(table),
        areas,
        counts.sum(axis=1),
        strict=True,
    )
    return {
        name: {
            "precision": _exists(precision),
            "recall": _exists(recall),
            "f1": _exists(f1),
            "auc": _exists(area),
            "support": int(support),
        }
        for name, precision, recall, f1, area, support in columns
    }


def _exists(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], groups: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    if not len(truth):
        raise UserError("a score needs at least 1 test image, got none: label a test split")
    if scores.shape != (len(truth), len(classes)) or len(groups) != len(truth):
        raise UserError(
            f"a score of {len(truth)} images and {len(classes)} classes needs probabilities of "
            f"shape ({len(truth)}, {len(classes)}) and {len(truth)} groups, got "
            f"{scores.shape} and {len(groups)}"
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= len(classes):
        raise UserError(f"labels must be class indices 0..{len(classes) - 1}, got {set(truth)}")
    sums = scores.sum(axis=1)
    if not np.isfinite(scores).all() or (scores < 0).any() or np.abs(sums - 1).max() > 1e-3:
        raise UserError(
            "probabilities must be finite, at least 0 and sum to 1 for each image: "
            "the classifier gave something else, so its numbers would mean nothing"
        )
    return truth.astype(np.int64), scores
