"""Packed data sets, and the order and randomness they are read with."""

from sightline.data.dataset import PackedDataset, open_dataset
from sightline.data.publish import publish_dataset, write_dataset
from sightline.data.randomness import derived_seed
from sightline.data.samples import SPLITS, Box, Sample

__all__ = [
    "SPLITS",
    "Box",
    "PackedDataset",
    "Sample",
    "derived_seed",
    "open_dataset",
    "publish_dataset",
    "write_dataset",
]
