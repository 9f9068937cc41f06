"""Average precision, precision and recall of detections, and their bootstrap over groups.

The definitions are COCO's (Lin et al. 2014, arXiv:1405.0312, and its evaluation code): a class's
average precision is the mean, over recalls 0, 0.01, …, 1, of the best precision at that recall
or above; `map50` takes a match at an overlap (IoU) of 0.5, `map50_95` averages 0.5, 0.55, …, 0.95.
All four headline numbers are means over the classes that have boxes. A precision that does not
exist counts as 0 there, or a detector could raise its mean by never finding a class.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.scoring.intervals import GroupResamples

Array = NDArray[np.float64]

OVERLAPS: Array = np.linspace(0.5, 0.95, 10)
RECALL_GRID: Array = np.linspace(0.0, 1.0, 101)

HEADLINES = ("map50", "map50_95", "precision", "recall")


@dataclass(frozen=True)
class Detections:
    """A detector's findings in one image, or the true boxes of one (then confidence is 1)."""

    boxes: Array
    """Left, top, right, bottom in pixels of the image, shape (D, 4)."""
    class_indices: NDArray[np.int64]
    confidence: Array


@dataclass(frozen=True)
class ScoredDetections:
    """Every detection of a set of images, and at which overlaps it is right."""

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    """Each image's group."""
    true_boxes: NDArray[np.int64]
    """How many boxes of each class each image has, shape (images, classes)."""
    image: NDArray[np.int64]
    class_indices: NDArray[np.int64]
    confidence: Array
    correct: NDArray[np.bool_]
    """Shape (detections, overlaps)."""

    @classmethod
    def from_images(
        cls,
        classes: Sequence[str],
        groups: Sequence[str],
        truths: Sequence[Detections],
        found: Sequence[Detections],
    ) -> ScoredDetections:
        """Match what was found in each image with what is there."""
        true_boxes = np.zeros((len(truths), len(classes)), np.int64)
        for place, truth in enumerate(truths):
            np.add.at(true_boxes[place], truth.class_indices, 1)
        correct = [match(truth, guess) for truth, guess in zip(truths, found, strict=True)]
        return cls(
            classes=tuple(classes),
            groups=tuple(groups),
            true_boxes=true_boxes,
            image=np.repeat(np.arange(len(found)), [len(guess.boxes) for guess in found]),
            class_indices=_joined([guess.class_indices for guess in found], np.int64),
            confidence=_joined([guess.confidence for guess in found], np.float64),
            correct=np.concatenate([np.zeros((0, len(OVERLAPS)), bool), *correct]),
        )

    @functools.cached_property
    def by_class(self) -> list[tuple[NDArray[np.int64], Array, NDArray[np.bool_]]]:
        """Image, confidence and correctness of each class's detections, most confident first."""
        parts = []
        for index in range(len(self.classes)):
            mine = np.flatnonzero(self.class_indices == index)
            order = mine[np.argsort(-self.confidence[mine], kind="stable")]
            parts.append((self.image[order], self.confidence[order], self.correct[order]))
        return parts

    @property
    def even_weights(self) -> Array:
        """One for each image: the set as it is."""
        return np.ones(len(self.groups))


def match(truth: Detections, found: Detections) -> NDArray[np.bool_]:
    """Say which detections are right at which overlap, shape (detections, overlaps).

    The most confident detection chooses first and takes the true box of its class that it
    overlaps best and that nobody has taken.
    """
    correct = np.zeros((len(found.boxes), len(OVERLAPS)), dtype=bool)
    if not len(truth.boxes) or not len(found.boxes):
        return correct
    overlap = box_overlap(truth.boxes, found.boxes)
    overlap[truth.class_indices[:, None] != found.class_indices[None, :]] = 0.0
    taken = np.zeros((len(truth.boxes), len(OVERLAPS)), dtype=bool)
    levels = np.arange(len(OVERLAPS))
    for place in np.argsort(-found.confidence, kind="stable"):
        free = np.where(taken, 0.0, overlap[:, place, None])
        best = free.argmax(axis=0)
        correct[place] = free[best, levels] >= OVERLAPS
        taken[best, levels] |= correct[place]
    return correct


def box_overlap(first: Array, second: Array) -> Array:
    """Return the intersection over union of boxes (N, 4) and (M, 4), shape (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [
        np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)
    ]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(float).tiny))


def average_precision(scored: ScoredDetections, weights: Array) -> Array:
    """Return the average precision of each class at each overlap, shape (classes, overlaps).

    Args:
        scored: The detections.
        weights: How often each image counts, shape (images,).

    Returns:
        Shares of 1; NaN for a class without boxes.
    """
    return np.stack(
        [
            _interpolated_precision(scored, index, weights).mean(axis=0)
            for index in range(len(scored.classes))
        ]
    )


def precision_at_recall(scored: ScoredDetections) -> Array:
    """Return each class's precision at overlap 0.5 for each recall of `RECALL_GRID`."""
    return np.stack(
        [
            _interpolated_precision(scored, index, scored.even_weights)[:, 0]
            for index in range(len(scored.classes))
        ]
    )


def _interpolated_precision(scored: ScoredDetections, index: int, weights: Array) -> Array:
    boxes = float(weights @ scored.true_boxes[:, index])
    values = np.full((len(RECALL_GRID), len(OVERLAPS)), np.nan if boxes == 0 else 0.0)
    image, _, correct = scored.by_class[index]
    weight = weights[image]
    counted = weight > 0
    if boxes == 0 or not counted.any():
        return values
    weight, correct = weight[counted], correct[counted]
    right = np.cumsum(weight[:, None] * correct, axis=0)
    precision = right / np.cumsum(weight)[:, None]
    best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = right / boxes
    for level in range(len(OVERLAPS)):
        places = np.searchsorted(recall[:, level], RECALL_GRID, side="left")
        reached = places < len(recall)
        values[reached, level] = best_from_here[places[reached], level]
    return values


def precision_and_recall(
    scored: ScoredDetections, weights: Array, confidence: float
) -> tuple[Array, Array]:
    """Return each class's precision and recall at overlap 0.5 from a confidence upwards.

    Precision is NaN where nothing was found, recall where there are no boxes.
    """
    shape = len(scored.classes)
    right, found = np.zeros(shape), np.zeros(shape)
    for index, (image, confidences, correct) in enumerate(scored.by_class):
        kept = confidences >= confidence
        weight = weights[image[kept]]
        found[index] = weight.sum()
        right[index] = weight @ correct[kept, 0]
    boxes = weights @ scored.true_boxes
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            np.where(found > 0, right / found, np.nan),
            np.where(boxes > 0, right / boxes, np.nan),
        )


def best_confidence(scored: ScoredDetections, otherwise: float = 0.25) -> float:
    """Return the confidence at which the mean F1 over the classes with boxes is highest.

    In the middle of the best stretch, so that a small change of the images moves it little.
    """
    grid = np.arange(1, 100) / 100
    scores = []
    for confidence in grid:
        precision, recall = precision_and_recall(scored, scored.even_weights, float(confidence))
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        scores.append(_mean(np.where(np.isnan(recall), np.nan, f1)))
    values = np.array(scores)
    if not np.nanmax(values, initial=0.0) > 0:
        return otherwise
    best = np.flatnonzero(values >= np.nanmax(values) - 1e-12)
    return float(grid[best[len(best) // 2]])


def headline_numbers(
    scored: ScoredDetections, weights: Array, confidence: float
) -> dict[str, float]:
    """Return the four headline numbers of a set in which images may count several times.

    NaN if the set has no box at all.
    """
    average = average_precision(scored, weights)
    precision, recall = precision_and_recall(scored, weights, confidence)
    has_boxes = weights @ scored.true_boxes > 0
    return {
        "map50": _mean(average[:, 0]),
        "map50_95": _mean(average.mean(axis=1)),
        "precision": _mean(np.nan_to_num(precision[has_boxes])),
        "recall": _mean(recall),
    }


def resampled_numbers(
    scored: ScoredDetections, confidence: float, *, bootstrap_samples: int, seed: int
) -> dict[str, Array]:
    """Return the headline numbers of resampled groups, an array of `bootstrap_samples` each.

    Whole groups are drawn with replacement, and every number is computed again from the
    detections. Equal groups and seeds give equal draws, so two detectors' samples are pairs.
    """
    resamples = GroupResamples.draw(scored.groups, bootstrap_samples, seed)
    rows = [
        headline_numbers(scored, weights, confidence)
        for chunk in resamples.image_weights()
        for weights in chunk
    ]
    return {name: np.array([row[name] for row in rows]) for name in HEADLINES}


def per_class_numbers(scored: ScoredDetections, confidence: float) -> dict[str, dict[str, Any]]:
    """Return each class's numbers; null where a number does not exist."""
    average = average_precision(scored, scored.even_weights)
    precision, recall = precision_and_recall(scored, scored.even_weights, confidence)
    boxes = scored.true_boxes.sum(axis=0)
    return {
        name: {
            "map50": _known(average[index, 0]),
            "map50_95": _known(average[index].mean()),
            "precision": _known(precision[index]) if boxes[index] else None,
            "recall": _known(recall[index]),
            "boxes": int(boxes[index]),
        }
        for index, name in enumerate(scored.classes)
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Array) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
