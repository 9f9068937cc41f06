"""A packed data set laid out as Ultralytics reads one: images and label files in a folder."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.data import PackedDataset
from sightline.errors import UserError
from sightline.images import decode_image
from sightline.telemetry import track

_GIB = 2**30
_DISK_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class YoloFolder:
    """The splits train and val as files of this machine; every training of a step shares them."""

    path: Path
    train: PackedDataset
    val: PackedDataset

    def images(self, split: str) -> Path:
        """Return the folder that holds a split's images."""
        return self.path / split / "images"

    def read_val(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of val in their order; an epoch's score needs no store for them."""
        for path in sorted(self.images("val").iterdir()):
            yield decode_image(path.read_bytes())


def write_yolo_folder(dataset: PackedDataset, path: Path, *, max_gib: float) -> YoloFolder:
    """Write the annotated images of train and val, and their boxes, below a folder.

    Images keep their stored bytes and are named by their sha256, never by the name they came
    with; the number in front keeps apart images with equal bytes, and their order.

    Args:
        dataset: A data set version with boxes.
        path: An empty folder of this machine.
        max_gib: How many GiB the files may take.

    Raises:
        UserError: If the files would take more than that, or more than the disk has free; then
            nothing was read or written.
    """
    splits = {name: dataset.split(name) for name in ("train", "val")}
    _require_room(splits, path, max_gib)
    for name, split in splits.items():
        _write_split(split, path / name, f"detect: fetching {name} images")
    return YoloFolder(path, splits["train"], splits["val"])


def _require_room(splits: dict[str, PackedDataset], path: Path, max_gib: float) -> None:
    needed = sum(
        _on_disk(sample.size_bytes) + _on_disk(1)
        for split in splits.values()
        for sample in split.samples
    )
    images = sum(len(split) for split in splits.values())
    what = f"detect keeps {images} images of train and val as files while it trains"
    if needed > max_gib * _GIB:
        raise UserError(
            f"{what}, {_gib(needed)} GiB, more than max_local_gib {max_gib:g}: raise "
            "max_local_gib, or run prepare again with a smaller boxes_short_side_px"
        )
    path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path).free
    if needed > free:
        raise UserError(
            f"{what}, {_gib(needed)} GiB, but only {_gib(free)} GiB are free under {path}: free "
            "some, or point TMPDIR to a larger disk"
        )


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // _DISK_BLOCK_BYTES) * _DISK_BLOCK_BYTES


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.3g}"


def _write_split(split: PackedDataset, folder: Path, label: str) -> None:
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    places = {name: index for index, name in enumerate(split.classes)}
    contents = track(split.iter_bytes(), label, len(split))
    for index, (sample, content) in enumerate(zip(split.samples, contents, strict=True)):
        stem = f"{index:09d}-{sample.sha256[:16]}"
        (images / f"{stem}.{_suffix(content, sample.name)}").write_bytes(content)
        lines = [
            " ".join(
                [str(places[box.class_name])]
                + [f"{v:.8f}" for v in (box.x_center, box.y_center, box.width, box.height)]
            )
            for box in sample.boxes or ()
        ]
        (labels / f"{stem}.txt").write_text("".join(line + "\n" for line in lines))


def _suffix(content: bytes, name: str) -> str:
    with Image.open(io.BytesIO(content)) as image:
        found = {"JPEG": "jpg", "PNG": "png"}.get(image.format or "")
    if found is None:
        raise UserError(f"{name} is stored as {image.format}, detect reads JPEG and PNG")
    return found
