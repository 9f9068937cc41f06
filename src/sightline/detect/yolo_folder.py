"""A packed data set laid out as Ultralytics reads one: images and label files in a folder."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from sightline.config import UserError
from sightline.data import PackedDataset


def write_yolo_folder(dataset: PackedDataset, folder: Path) -> Path:
    """Write annotated images and their boxes below a folder.

    Images keep their stored bytes and are named by their sha256, never by the name they came
    with; the number in front keeps apart images with equal bytes.

    Returns:
        The folder of the images.
    """
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    places = {name: index for index, name in enumerate(dataset.classes)}
    for index, sample in enumerate(dataset.samples):
        content = dataset.read_bytes(index)
        stem = f"{index:07d}-{sample.sha256[:16]}"
        (images / f"{stem}.{_suffix(content, sample.name)}").write_bytes(content)
        lines = [
            " ".join(
                [str(places[box.class_name])]
                + [f"{v:.8f}" for v in (box.x_center, box.y_center, box.width, box.height)]
            )
            for box in sample.boxes or ()
        ]
        (labels / f"{stem}.txt").write_text("".join(line + "\n" for line in lines))
    return images


def _suffix(content: bytes, name: str) -> str:
    with Image.open(io.BytesIO(content)) as image:
        found = {"JPEG": "jpg", "PNG": "png"}.get(image.format or "")
    if found is None:
        raise UserError(f"{name} is stored as {image.format}, detect reads JPEG and PNG")
    return found
