"""How well the encoder tells labelled images apart while it learns, without training anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.data import PackedDataset, derived_seed
from sightline.data.labelled import LabelledImages, read_labelled
from sightline.encoders import Encoder, encode_images
from sightline.scoring.neighbours import knn_predict

MAX_TRAIN, MAX_VAL = 4000, 1000
_AT_ONCE = 64


def _nothing() -> None:
    """Stand for nobody who needs to be told."""


class NeighbourProbe:
    """kNN accuracy on the val split of a labelled set; for looking at, it chooses nothing.

    Of larger splits the same images are drawn each time, so that looking stays cheap: 4,000 that
    vote and 1,000 that are asked.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        """Read the images; none are kept if a split is empty."""
        self._classes = len(dataset.classes)
        self._train = _read(dataset, "train", MAX_TRAIN)
        self._val = _read(dataset, "val", MAX_VAL)

    def accuracy(
        self, encoder: Encoder, device: torch.device, after_each: Callable[[], None] = _nothing
    ) -> float | None:
        """Return the share of val images whose neighbours name their class; None: no images.

        Args:
            encoder: The encoder; frozen and in evaluation mode meanwhile.
            device: Where to compute.
            after_each: Called after every few images.
        """
        if not (len(self._train) and len(self._val)):
            return None

        def features(images: LabelledImages) -> NDArray[np.float32]:
            parts = []
            for start in range(0, len(images), _AT_ONCE):
                some = images.images[start : start + _AT_ONCE]
                parts.append(encode_images(encoder, some, device=device))
                after_each()
            return np.concatenate(parts)

        votes = knn_predict(
            features(self._train), self._train.labels, features(self._val), self._classes
        )
        return float((votes.argmax(axis=1) == self._val.labels).mean())


def _read(dataset: PackedDataset, split: str, most: int) -> LabelledImages:
    places = [place for place, sample in enumerate(dataset.samples) if sample.split == split]
    if len(places) > most:
        draw = np.random.default_rng(derived_seed("kNN probe", split))
        places = sorted(draw.choice(places, most, replace=False).tolist())
    return read_labelled(dataset.take(places), split, "pretrain")
