"""Confidence intervals: the percentile bootstrap over groups.

Images of one group (a patient) resemble each other, so whole groups are drawn with replacement
(Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). Drawing single images would give
intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.errors import UserError
from sightline.scoring.confusion import CONFUSION_METRICS
from sightline.scoring.ranking import macro_auc

Array = NDArray[np.float64]
Interval = dict[str, float | None]

METRICS: tuple[str, ...] = (*CONFUSION_METRICS, "auc_macro")

# Weights of one chunk of resamples: about 32 MB however many images there are.
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class GroupResamples:
    """How often each group counts in each resample; the same draws serve several metrics."""

    group_of_image: NDArray[np.int64]
    draws: NDArray[np.int64]
    """Shape (resamples, groups); each row sums to the number of groups."""

    @classmethod
    def draw(cls, groups: Sequence[str], resamples: int, seed: int) -> GroupResamples:
        """Draw as many groups as there are, with replacement, `resamples` times."""
        names, group_of_image = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        even = np.full(len(names), 1 / len(names))
        draws = np.random.default_rng(seed).multinomial(len(names), even, size=resamples)
        return cls(group_of_image.astype(np.int64), draws)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.draws.shape[1])

    def confusion_counts(
        self, labels: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int
    ) -> Array:
        """Return the confusion counts of every resample, shape (resamples, C, C)."""
        cells = labels.astype(np.int64) * n_classes + predicted
        per_group = np.zeros((self.groups, n_classes**2))
        np.add.at(per_group, (self.group_of_image, cells), 1)
        counts = self.draws.astype(np.float64) @ per_group
        return counts.reshape(-1, n_classes, n_classes)

    def image_weights(self) -> Iterator[Array]:
        """Yield how often each image counts, shape (some resamples, N), chunk by chunk."""
        rows = max(1, _CHUNK_VALUES // len(self.group_of_image))
        for start in range(0, len(self.draws), rows):
            yield self.draws[start : start + rows, self.group_of_image].astype(np.float64)


def bootstrap_interval(
    metric: str,
    labels: NDArray[np.integer],
    probabilities: Array,
    groups: Sequence[str],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a metric with its 95 % percentile bootstrap interval over groups.

    Args:
        metric: A name of `METRICS`, such as `accuracy` or `auc_macro`.
        labels: True class indices, shape (N,).
        probabilities: Class probabilities, shape (N, C); the largest is the prediction.
        groups: Each image's group, N names.
        bootstrap_samples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        `value`, `low` and `high` as shares; None where the number does not exist. One group
        alone has no interval.
    """
    resamples = GroupResamples.draw(groups, bootstrap_samples, seed)
    value = _value(metric, labels, probabilities)
    return interval(value, _resampled(metric, labels, probabilities, resamples), resamples.groups)


def paired_difference(
    metric: str,
    labels: NDArray[np.integer],
    probabilities_a: Array,
    probabilities_b: Array,
    groups: Sequence[str],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return how much better A is than B on the same images, with its 95 % interval.

    Both are scored on the same resampled groups, so what makes an image hard for both cancels
    and the interval is narrower than two separate ones suggest.

    Args:
        metric: A name of `METRICS`.
        labels: True class indices, shape (N,).
        probabilities_a: A's class probabilities, shape (N, C).
        probabilities_b: B's class probabilities for the same images, shape (N, C).
        groups: Each image's group, N names.
        bootstrap_samples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        `value`, `low` and `high` of metric(A) - metric(B) as shares; None where it does not exist.
    """
    resamples = GroupResamples.draw(groups, bootstrap_samples, seed)
    value_a, value_b = (_value(metric, labels, p) for p in (probabilities_a, probabilities_b))
    samples_a, samples_b = (
        _resampled(metric, labels, p, resamples) for p in (probabilities_a, probabilities_b)
    )
    return interval(value_a - value_b, samples_a - samples_b, resamples.groups)


def interval(value: float, samples: Array, groups: int) -> Interval:
    """Return a value with the 2.5 % and 97.5 % quantiles of its resamples."""
    found = samples[~np.isnan(samples)]
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    if groups < 2 or not len(found):
        return {"value": float(value), "low": None, "high": None}
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _value(metric: str, labels: NDArray[np.integer], probabilities: Array) -> float:
    once = GroupResamples(np.zeros(len(labels), np.int64), np.ones((1, 1), np.int64))
    return float(_resampled(metric, labels, probabilities, once)[0])


def _resampled(
    metric: str, labels: NDArray[np.integer], probabilities: Array, resamples: GroupResamples
) -> Array:
    if metric not in METRICS:
        raise UserError(f"metric {metric!r} is unknown, use one of {', '.join(METRICS)}")
    if metric == "auc_macro":
        return resampled_macro_auc(labels, probabilities, resamples)
    of_counts: Callable[[Array], Array] = CONFUSION_METRICS[metric]
    predicted = probabilities.argmax(axis=1)
    return of_counts(resamples.confusion_counts(labels, predicted, probabilities.shape[1]))


def resampled_macro_auc(
    labels: NDArray[np.integer], probabilities: Array, resamples: GroupResamples
) -> Array:
    """Return the macro AUC of every resample, shape (resamples,)."""
    chunks = [macro_auc(labels, probabilities, weights) for weights in resamples.image_weights()]
    return np.concatenate(chunks)
