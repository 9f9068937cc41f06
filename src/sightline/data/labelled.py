"""Labelled splits in memory, and whether there is enough of them to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data.dataset import PackedDataset
from sightline.data.samples import SPLITS, Sample
from sightline.errors import UserError
from sightline.machine import usable_memory_bytes
from sightline.telemetry import track


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images with their labels; place i of every part belongs together."""

    name: str
    """What they are, such as `train`."""
    images: list[NDArray[np.uint8]]
    """Each of shape (height, width, 3), RGB, 0..255."""
    labels: NDArray[np.int64]
    """Class indices, shape (N,)."""
    samples: list[Sample]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        """Each image's name."""
        return [sample.name for sample in self.samples]

    @property
    def groups(self) -> list[str]:
        """Each image's group."""
        return [sample.group for sample in self.samples]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelledImages:
        """Return the images at some places, in that order."""
        return LabelledImages(
            self.name,
            [self.images[i] for i in indices],
            self.labels[np.asarray(indices, dtype=np.int64)],
            [self.samples[i] for i in indices],
        )

    def __add__(self, other: LabelledImages) -> LabelledImages:
        labels = np.concatenate([self.labels, other.labels])
        name = f"{self.name} and {other.name}"
        return LabelledImages(
            name, self.images + other.images, labels, self.samples + other.samples
        )


def read_labelled(dataset: PackedDataset, split: str, label: str) -> LabelledImages:
    """Decode one split into memory.

    Args:
        dataset: A data set version made from class folders.
        split: `train`, `val` or `test`.
        label: The step's name, for the progress line.

    Raises:
        UserError: If the split, decoded, exceeds the machine's memory.
    """
    chosen = dataset.split(split)
    require_memory(chosen, f"the {split} split of {dataset.uri}")
    images = list(track(chosen.iter_images(), f"{label}: reading {split} images", len(chosen)))
    return LabelledImages(split, images, chosen.label_indices, chosen.samples)


def require_memory(dataset: PackedDataset, what: str) -> None:
    """Refuse images that, decoded, exceed the memory of machine or pod, before any is read.

    Raises:
        UserError: If they do.
    """
    needed = sum(3 * sample.width * sample.height for sample in dataset.samples)
    present = usable_memory_bytes()
    if needed > present:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory when decoded, got "
            f"{present / 2**30:.1f} GiB: prepare it with a smaller stored_short_side_px"
        )


def describe_labelled(dataset: PackedDataset, parts: Sequence[LabelledImages]) -> dict[str, Any]:
    """Return the entry `dataset` of `metrics.json`: the version, and what each split holds."""
    return {
        "uri": dataset.uri,
        "digest": dataset.digest,
        **{f"{part.name}_images": len(part) for part in parts},
        **{f"{part.name}_groups": len(set(part.groups)) for part in parts},
    }


def check_labels(dataset: PackedDataset) -> list[str]:
    """Refuse a data set that no classifier can be trained and tested on.

    Returns:
        Sentences about what is thin though possible: a class that a split lacks.

    Raises:
        UserError: If a split is empty, an image has no label, or training has a single class.
    """
    present: dict[str, set[str]] = {}
    for split in SPLITS:
        chosen = dataset.split(split)
        if not len(chosen):
            counts = ", ".join(f"{name} {len(dataset.split(name))}" for name in SPLITS)
            raise UserError(
                f"{dataset.uri} needs images in all three splits, got {counts}: add groups "
                "(patients), or name the split of each image in prepare's table"
            )
        places = chosen.label_indices
        present[split] = {dataset.classes[place] for place in places}
    if len(present["train"]) < 2:
        only = ", ".join(sorted(present["train"]))
        raise UserError(
            f"{dataset.uri} needs at least 2 classes in its training split, got only {only}: "
            "add images of another class, from several groups (patients)"
        )
    return [
        f"the {split} split has no image of {name}, so {consequence}"
        for split, consequence in (
            ("train", "it cannot be predicted"),
            ("val", "the choice of the best epoch ignores it"),
            ("test", "its numbers do not exist"),
        )
        for name in dataset.classes
        if name not in present[split]
    ]
