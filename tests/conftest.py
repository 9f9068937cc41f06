"""Tiny seeded images and data sets that any part's tests may start from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sightline.data import SPLITS, Box, PackedDataset, write_dataset
from sightline.data.shards import PackedImage

CLASSES = ("checks", "columns", "rows")


def draw_pattern(class_name: str, seed: int, side_px: int = 32) -> NDArray[np.uint8]:
    """Draw a noisy gray pattern of one class; a small network tells the three apart."""
    random = np.random.default_rng(seed)
    shift_y, shift_x = random.integers(0, 8, size=2)
    y, x = np.mgrid[:side_px, :side_px]
    rows = (y + shift_y) // 4 % 2
    columns = (x + shift_x) // 4 % 2
    pattern = {"rows": rows, "columns": columns, "checks": rows ^ columns}[class_name]
    gray = 60 + 120 * pattern + random.normal(0, 20, size=(side_px, side_px))
    clipped = np.clip(gray, 0, 255).astype(np.uint8)
    return np.repeat(clipped[:, :, None], 3, axis=2)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the pixels as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """Return `make(folder, classes, groups_per_class, images_per_group, side_px, seed)`.

    It writes `<folder>/<class>/<class>-p<group>_<slice>.png`, so `(p\\d+)_` is a group pattern
    within a class and `([a-z]+-p\\d+)_` is one over all classes, and returns the folder.
    """

    def make(
        folder: Path,
        classes: Sequence[str] = CLASSES,
        groups_per_class: int = 10,
        images_per_group: int = 2,
        side_px: int = 32,
        seed: int = 0,
    ) -> Path:
        for place, class_name in enumerate(classes):
            (folder / class_name).mkdir(parents=True, exist_ok=True)
            for group in range(groups_per_class):
                for number in range(images_per_group):
                    image_seed = seed + 10_000 * place + 100 * group + number
                    pattern = CLASSES[place % len(CLASSES)]
                    content = encode_png(draw_pattern(pattern, image_seed, side_px))
                    name = f"{class_name}-p{group:02d}_{number}.png"
                    (folder / class_name / name).write_bytes(content)
        return folder

    return make


@pytest.fixture(scope="session")
def labelled_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of 60 images of 32 px: 3 classes, 10 groups each, all three splits."""
    groups_per_split = {"train": 6, "val": 2, "test": 2}
    images = []
    for place, class_name in enumerate(CLASSES):
        group = 0
        for split in SPLITS:
            for _ in range(groups_per_split[split]):
                for number in range(2):
                    pixels = draw_pattern(class_name, 10_000 * place + 100 * group + number)
                    images.append(
                        PackedImage(
                            content=encode_png(pixels),
                            suffix="png",
                            name=f"{class_name}/{class_name}-p{group:02d}_{number}.png",
                            group=f"{class_name}-p{group:02d}",
                            split=split,
                            width=32,
                            height=32,
                            label=class_name,
                        )
                    )
                group += 1
    store = tmp_path_factory.mktemp("labelled-dataset")
    return write_dataset(images, str(store), kind="labels", classes=CLASSES)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the split of every image read from now on, in this process.

    A test appends marks of its own, such as where a training ends, to see what came before.
    """
    order: list[str] = []
    read_bytes = PackedDataset.read_bytes

    def read_and_note(dataset: PackedDataset, index: int) -> bytes:
        order.append(dataset.samples[index].split)
        return read_bytes(dataset, index)

    monkeypatch.setattr(PackedDataset, "read_bytes", read_and_note)
    return order


@pytest.fixture(scope="session")
def boxes_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of 16 images of 64 px with 1 or 2 boxes; one test image has none."""
    classes = ("disc", "square")
    random = np.random.default_rng(0)
    images = []
    for number in range(16):
        pixels = np.clip(random.normal(60, 15, size=(64, 64)), 0, 255)
        y, x = np.mgrid[:64, :64]
        boxes = []
        for place in range(0 if number == 15 else 1 + number % 2):
            class_name = classes[(number + place) % 2]
            radius = int(random.integers(7, 12))
            center_y = int(random.integers(14, 50))
            center_x = 16 + 32 * place + int(random.integers(-3, 4))
            dy, dx = np.abs(y - center_y), np.abs(x - center_x)
            inside = (
                dy**2 + dx**2 <= radius**2
                if class_name == "disc"
                else (np.maximum(dy, dx) <= radius)
            )
            pixels[inside] = 200
            side = (2 * radius + 1) / 64
            boxes.append(Box(class_name, (center_x + 0.5) / 64, (center_y + 0.5) / 64, side, side))
        gray = np.repeat(pixels.astype(np.uint8)[:, :, None], 3, axis=2)
        images.append(
            PackedImage(
                content=encode_png(gray),
                suffix="png",
                name=f"scene-{number:02d}.png",
                group=f"scene-{number:02d}",
                split="train" if number < 8 else "val" if number < 12 else "test",
                width=64,
                height=64,
                boxes=tuple(boxes),
            )
        )
    store = tmp_path_factory.mktemp("boxes-dataset")
    return write_dataset(images, str(store), kind="boxes", classes=classes)
