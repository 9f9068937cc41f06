"""The same picture twice: where it would spoil a number it is left out, and always it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.data import SPLITS, derived_seed
from sightline.prepare.folders import Findings
from sightline.prepare.intake import ReadImage

NEAR_CORRELATION = 0.99
MAX_COMPARED_IMAGES = 50_000
_MAX_NEIGHBOUR_IMAGES = 20_000
_BLOCK = 1024
_SHOWN = 20


@dataclass(frozen=True)
class PlacedImage:
    """An image that was read, with its group and its split."""

    read: ReadImage
    group: str
    split: str

    @property
    def kind(self) -> str:
        """The set it belongs to: `images`, `labels` or `boxes`."""
        return self.read.found.kind

    @property
    def key(self) -> str:
        """Its path below the folder of its set."""
        return self.read.found.key


@dataclass(frozen=True)
class NearCopies:
    """How many pairs in different splits look the same, and the first of them."""

    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass
class Duplicates:
    """What was found; a pair names the copy in the later split, then the one that is held out."""

    same_split: int = 0
    across_splits: list[tuple[str, str]] = field(default_factory=list)
    near: NearCopies | None = None
    moved_groups: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the counts and the first pairs for `metrics.json`."""
        return {
            "exact_same_split": self.same_split,
            "exact_across_splits": len(self.across_splits),
            "near_across_splits": None if self.near is None else self.near.count,
            "groups_moved_out_of_pretraining": len(self.moved_groups),
            "examples_exact": [list(pair) for pair in self.across_splits[:_SHOWN]],
            "examples_near": [list(pair) for pair in self.near.examples] if self.near else [],
        }


def reject_two_classes(images: Sequence[ReadImage], labels: Findings) -> list[ReadImage]:
    """Leave out labelled images whose very pixels also carry another class; nobody knows which."""
    classes: dict[str, dict[str, str]] = defaultdict(dict)
    for image in images:
        if image.found.label is not None:
            classes[image.pixels_sha256].setdefault(image.found.label, image.found.key)
    kept = []
    for image in images:
        other = {
            c: key for c, key in classes[image.pixels_sha256].items() if c != image.found.label
        }
        if image.found.label is not None and other:
            class_name, key = next(iter(other.items()))
            labels.rejected[image.found.key] = f"has the very pixels of {key}, class {class_name}"
        else:
            kept.append(image)
    return kept


def protect_held_out(images: Sequence[PlacedImage], found: Duplicates) -> list[PlacedImage]:
    """Keep every picture of a held-out split out of training, whatever name it comes by.

    In the labelled set and in the boxes set, a picture that is in two splits stays in test, else
    in val. In the unlabelled set, the whole group of a picture that another set holds out moves
    to that split. The labelled set and the boxes leave each other alone: classifier and detector
    are each tested on their own test split, and share nothing but what is pretrained.
    """
    held: dict[tuple[str, str], PlacedImage] = {}
    for image in sorted(images, key=_strictness):
        held.setdefault((image.kind, image.read.pixels_sha256), image)
    kept = []
    seen = set()
    for image in images:
        first = held[image.kind, image.read.pixels_sha256]
        if image.split == first.split:
            found.same_split += (image.kind, image.read.pixels_sha256) in seen
            seen.add((image.kind, image.read.pixels_sha256))
        elif image.kind != "images":
            found.across_splits.append((_name(image), _name(first)))
            continue
        kept.append(image)
    moved: dict[str, str] = {}
    for image in kept:
        for kind in ("images", "labels", "boxes"):
            other = held.get((kind, image.read.pixels_sha256))
            if image.kind == "images" and other and _strictness(other) < _strictness(image):
                found.across_splits.append((_name(image), _name(other)))
                moved[image.group] = min(moved.get(image.group, "train"), other.split, key=_rank)
    found.moved_groups = sorted(moved)
    return [
        PlacedImage(i.read, i.group, min(i.split, moved[i.group], key=_rank))
        if i.kind == "images" and i.group in moved
        else i
        for i in kept
    ]


def find_near_copies(images: Sequence[PlacedImage]) -> NearCopies | None:
    """Count pairs of different groups in different splits that look the same.

    Near: the correlation of their 32 x 32 gray thumbnails is above 0.99. None: too many images
    to compare each with each.
    """
    if len(images) > MAX_COMPARED_IMAGES:
        return None
    vectors = _unit_vectors(images)
    hashes = np.array([image.read.pixels_sha256 for image in images])
    groups = np.array([image.group for image in images])
    ranks = np.array([_rank(image.split) for image in images])
    count = 0
    pairs: list[tuple[str, str]] = []
    held_out = np.flatnonzero(ranks < _rank("train"))
    for start in range(0, len(held_out), _BLOCK):
        rows = held_out[start : start + _BLOCK]
        near = vectors[rows] @ vectors.T > NEAR_CORRELATION
        near &= ranks[rows][:, None] < ranks[None, :]
        near &= groups[rows][:, None] != groups[None, :]
        near &= hashes[rows][:, None] != hashes[None, :]
        count += int(near.sum())
        if len(pairs) < _SHOWN:
            found = np.argwhere(near)[: _SHOWN - len(pairs)]
            pairs += [(_name(images[column]), _name(images[rows[row]])) for row, column in found]
    return NearCopies(count, tuple(pairs))


def measure_leak(images: Sequence[PlacedImage], seed: int) -> dict[str, float] | None:
    """Return the accuracy of the nearest thumbnail with a random split and with this one.

    A random split that is much better than the split by group shows what it would have leaked.
    None: too many images, or too few, to measure.
    """
    labelled = [image for image in images if image.kind == "labels"]
    is_test = np.array([image.split == "test" for image in labelled], dtype=bool)
    if not 0 < is_test.sum() < len(labelled) or len(labelled) > _MAX_NEIGHBOUR_IMAGES:
        return None
    vectors = _unit_vectors(labelled)
    labels = np.array([image.read.found.label for image in labelled])
    shuffled = np.random.default_rng(derived_seed("leak", seed)).permutation(is_test)
    return {
        "random_split": _nearest_accuracy(vectors, labels, shuffled),
        "this_split": _nearest_accuracy(vectors, labels, is_test),
    }


def _nearest_accuracy(
    vectors: NDArray[np.float32], labels: NDArray[np.str_], is_test: NDArray[np.bool_]
) -> float:
    known, asked = vectors[~is_test], np.flatnonzero(is_test)
    hits = 0
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        nearest = np.argmax(vectors[rows] @ known.T, axis=1)
        hits += int((labels[~is_test][nearest] == labels[rows]).sum())
    return hits / len(asked)


def _unit_vectors(images: Sequence[PlacedImage]) -> NDArray[np.float32]:
    vectors = np.stack([image.read.thumbnail.ravel() for image in images])
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A blank picture has no direction: it is near to nothing.
    return np.where(lengths > 1e-3, vectors / np.maximum(lengths, 1e-3), 0).astype(np.float32)


def _rank(split: str) -> int:
    return len(SPLITS) - 1 - SPLITS.index(split)


def _strictness(image: PlacedImage) -> int:
    return _rank(image.split)


def _name(image: PlacedImage) -> str:
    return f"{image.kind}/{image.key} ({image.split})"


def union_for_pretraining(images: Sequence[PlacedImage]) -> list[PlacedImage]:
    """Return one copy of every picture of the other sets, in its strictest split."""
    first: dict[str, PlacedImage] = {}
    for image in sorted(images, key=_strictness):
        first.setdefault(image.read.pixels_sha256, image)
    chosen = set(map(id, first.values()))
    return [image for image in images if id(image) in chosen]
