"""Test images with their true boxes (solid) and what the detectors found (dashed)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sightline.data import PackedDataset, derived_seed
from sightline.encoders.yolo_detector import Detector
from sightline.encoders.yolo_scoring import true_detections
from sightline.scoring.detection import Detections, box_overlap

# Okabe and Ito's colours, told apart with any colour vision.
_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_LONG_SIDE_PX = 512
_SAME_PLACE_OVERLAP = 0.6


def draw_pictures(
    detectors: Mapping[str, Detector],
    test: PackedDataset,
    folder: Path,
    *,
    count: int,
    seed: int,
) -> list[str]:
    """Draw the same test images for each detector, as `<number>-<protocol>.jpg`.

    Args:
        detectors: The detectors by protocol; each shows what it finds at its own confidence.
        test: The annotated test images.
        folder: Where the pictures go; it is made.
        count: How many images; they depend on the images and the seed alone.
        seed: Seed of the choice.

    Returns:
        The pictures' file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    shown = test.take(choose(test, count, seed))
    for place, image in enumerate(shown.iter_images()):
        for protocol, detector in detectors.items():
            found = most_confident(detector.predict([image], detector.spec.confidence)[0])
            truth = true_detections(shown, place, detector.spec.classes)
            name = f"{place + 1:02d}-{protocol}.jpg"
            draw(image, truth, found, detector.spec.classes).save(folder / name, quality=90)
            names.append(name)
    return names


def most_confident(found: Detections) -> Detections:
    """Keep one class for each place: a picture with two guesses on one object is not readable."""
    kept: list[int] = []
    overlap = box_overlap(found.boxes, found.boxes)
    for place in np.argsort(-found.confidence, kind="stable"):
        if not (overlap[place, kept] > _SAME_PLACE_OVERLAP).any():
            kept.append(int(place))
    return Detections(found.boxes[kept], found.class_indices[kept], found.confidence[kept])


def choose(test: PackedDataset, count: int, seed: int) -> list[int]:
    """Choose images, those with boxes first, at most one a group while others are left."""
    drawn = sorted(
        range(len(test)),
        key=lambda i: derived_seed("picture", seed, test.samples[i].sha256, test.samples[i].name),
    )
    seen: set[str] = set()
    firsts: list[int] = []
    rest: list[int] = []
    for index in drawn:
        group = test.samples[index].group
        (rest if group in seen else firsts).append(index)
        seen.add(group)
    ordered = sorted([*firsts, *rest], key=lambda i: not test.samples[i].boxes)
    return ordered[:count]


def draw(
    image: NDArray[np.uint8], truth: Detections, found: Detections, classes: tuple[str, ...]
) -> Image.Image:
    """Return an image with its true boxes solid and the found ones dashed, with their score."""
    height, width = image.shape[:2]
    scale = _LONG_SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    for box, class_index in zip(truth.boxes * scale, truth.class_indices, strict=True):
        canvas.rectangle(tuple(box), outline=_color(class_index), width=3)
    for box, class_index in zip(found.boxes * scale, found.class_indices, strict=True):
        _dashed_rectangle(canvas, tuple(float(v) for v in box), _color(class_index))
    # Texts last, so that no box strikes one through: what is true below, what was found above.
    for box, class_index in zip(truth.boxes * scale, truth.class_indices, strict=True):
        _write(canvas, (box[0], box[3] + 2), classes[class_index], class_index, font, size)
    for box, class_index, confidence in zip(
        found.boxes * scale, found.class_indices, found.confidence, strict=True
    ):
        text = f"{classes[class_index]} {confidence:.2f}"
        _write(canvas, (box[0], box[1] - 19), text, class_index, font, size)
    return picture


def _color(class_index: int) -> str:
    return _COLORS[int(class_index) % len(_COLORS)]


def _write(
    canvas: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    class_index: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    text_width, text_height = right - left + 6, bottom - top + 4
    x = min(max(corner[0], 0), max(0, size[0] - text_width))
    y = min(max(corner[1], 0), max(0, size[1] - text_height))
    canvas.rectangle((x, y, x + text_width, y + text_height), fill="#000000")
    canvas.text((x + 3 - left, y + 2 - top), text, fill=_color(class_index), font=font)


def _dashed_rectangle(
    canvas: ImageDraw.ImageDraw, box: tuple[float, ...], color: str, dash: float = 7.0
) -> None:
    left, top, right, bottom = box
    sides = (
        ((left, top), (right, top)),
        ((right, top), (right, bottom)),
        ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    )
    for start, end in sides:
        length = abs(end[0] - start[0]) + abs(end[1] - start[1])
        if length == 0:
            continue
        step_x, step_y = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        for position in np.arange(0.0, length, 2 * dash):
            stop = min(position + dash, length)
            points = [
                (start[0] + step_x * at, start[1] + step_y * at) for at in (float(position), stop)
            ]
            canvas.line(points, fill="#000000", width=4)
            canvas.line(points, fill=color, width=2)
