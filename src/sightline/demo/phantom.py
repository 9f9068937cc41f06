"""Head phantoms: a patient's anatomy, and slices through it.

Made to be told apart by texture, as real lesions are: the kinds share size, place and brightness,
and two patients differ more in anatomy and contrast than two kinds do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.data import Box, derived_seed

LesionKind = Literal["diffuse", "ring", "solid"]
LESION_KINDS: tuple[LesionKind, ...] = ("diffuse", "ring", "solid")

Field = NDArray[np.float64]


@dataclass(frozen=True)
class Lesion:
    """A lesion: centre and radius in units of half the image, depth in slice positions."""

    kind: LesionKind
    x: float
    y: float
    depth: float
    radius: float
    brightness: float
    lobes: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Patient:
    """What all slices of one patient share."""

    name: str
    seed: int
    width: float
    height: float
    tilt: float
    skull: float
    skull_brightness: float
    tissue: float
    folds: float
    fold_size: int
    ventricles: float
    ventricle_brightness: float
    bias: float
    noise: float
    lesion: Lesion | None


def draw_patient(name: str, seed: int, kind: LesionKind | None) -> Patient:
    """Draw one patient's anatomy, contrast and lesion; depends on name, seed and kind alone."""
    patient_seed = derived_seed("patient", seed, name)
    random = np.random.default_rng(patient_seed)
    width, height = random.uniform(0.76, 0.88), random.uniform(0.84, 0.95)
    bright_fluid = random.random() < 0.4
    lesion = None
    if kind is not None:
        angle, reach = random.uniform(0, 2 * np.pi), np.sqrt(random.uniform(0.04, 0.36))
        lesion = Lesion(
            kind=kind,
            x=float(reach * width * np.cos(angle)),
            y=float(reach * height * np.sin(angle)),
            depth=random.uniform(-0.4, 0.4),
            radius=random.uniform(0.24, 0.38),
            brightness=random.uniform(0.36, 0.5),
            lobes=tuple((random.uniform(0, 0.16 / k), random.uniform(0, 6.3)) for k in (1, 2, 3)),
        )
    return Patient(
        name=name,
        seed=patient_seed,
        width=width,
        height=height,
        tilt=random.uniform(-0.25, 0.25),
        skull=random.uniform(0.06, 0.11),
        skull_brightness=random.uniform(0.55, 0.95),
        tissue=random.uniform(0.30, 0.46),
        folds=random.uniform(0.04, 0.09),
        fold_size=int(random.integers(9, 15)),
        ventricles=random.uniform(0.6, 1.1),
        ventricle_brightness=random.uniform(0.55, 0.75) if bright_fluid else 0.08,
        bias=random.uniform(0.0, 0.35),
        noise=random.uniform(0.02, 0.05),
        lesion=lesion,
    )


def draw_slice(
    patient: Patient, position: float, size_px: int
) -> tuple[NDArray[np.uint8], Box | None]:
    """Draw one slice through a patient.

    Args:
        patient: Whose head it is.
        position: Height of the slice in the head, -1..1.
        size_px: Side of the picture.

    Returns:
        Gray pixels, shape (size_px, size_px), and the lesion's box if the slice meets it.
    """
    random = np.random.default_rng(derived_seed("slice", patient.seed, f"{position:.4f}"))
    across, down = _head_coordinates(patient, position, size_px, random)
    radius = np.hypot(across / patient.width, down / patient.height)
    edge = 1.5 / size_px / patient.width
    inside = _step(1 - patient.skull - 0.04 - radius, edge)
    skull = _step(1 - radius, edge) - _step(1 - patient.skull - radius, edge)
    picture = inside * _tissue(patient, across, down, position, size_px)
    picture += skull * patient.skull_brightness
    box = None
    if patient.lesion is not None:
        value, cover, mask = _lesion(
            patient.lesion,
            across,
            down,
            position,
            size_px,
            _stream(patient, f"mottle {position:.4f}"),
        )
        cover = cover * inside
        picture = (1 - cover) * picture + cover * (patient.tissue + value)
        box = _box_around(mask & (inside > 0.5), patient.lesion.kind)
    picture *= 1 + patient.bias * _smooth_noise(_stream(patient, "bias"), 3, size_px)
    picture *= random.uniform(0.85, 1.1)
    noise = random.normal(0, patient.noise, size=(2, size_px, size_px))
    # Magnitude of a noisy complex signal, as in MRI: the air is never quite black.
    picture = np.hypot(picture + noise[0], noise[1])
    return np.clip(np.round(255 * picture), 0, 255).astype(np.uint8), box


def _head_coordinates(
    patient: Patient, position: float, size_px: int, random: np.random.Generator
) -> tuple[Field, Field]:
    axis = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    x, y = np.meshgrid(axis, axis)
    x, y = x - random.normal(0, 0.02), y - random.normal(0, 0.02)
    tilt = patient.tilt + random.normal(0, 0.03)
    scale = np.sqrt(1 - 0.35 * position**2)
    across = (x * np.cos(tilt) + y * np.sin(tilt)) / scale
    down = (y * np.cos(tilt) - x * np.sin(tilt)) / scale
    return across, down


def _tissue(patient: Patient, across: Field, down: Field, position: float, size_px: int) -> Field:
    above, below = (
        _smooth_noise(_stream(patient, f"folds {side}"), patient.fold_size, size_px)
        for side in ("above", "below")
    )
    share = (position + 1) / 2
    folds = np.tanh(2.5 * (share * above + (1 - share) * below))
    wide = 0.13 * patient.ventricles * (1 - 0.5 * abs(position))
    lobes = [
        np.hypot((across - side * wide) / wide, (down + 0.05) / (2.2 * wide))
        for side in (-0.8, 0.8)
    ]
    fluid = np.clip(sum(_step(1 - lobe, 0.15) for lobe in lobes), 0, 1)
    tissue = patient.tissue + patient.folds * folds
    return (1 - fluid) * tissue + fluid * patient.ventricle_brightness


def _lesion(
    lesion: Lesion,
    across: Field,
    down: Field,
    position: float,
    size_px: int,
    random: np.random.Generator,
) -> tuple[Field, Field, NDArray[np.bool_]]:
    """Return the lesion's brightness above tissue, how much it covers (0..1), and its extent."""
    nearness = 1 - ((position - lesion.depth) / lesion.radius) ** 2
    if nearness < 0.1:
        nothing = np.zeros_like(across)
        return nothing, nothing, nothing > 0
    radius = lesion.radius * np.sqrt(nearness)
    x, y = across - lesion.x, down - lesion.y
    angle = np.arctan2(y, x)
    outline = 1 + sum(
        size * np.cos((k + 1) * angle + phase) for k, (size, phase) in enumerate(lesion.lobes, 1)
    )
    share = np.hypot(x, y) / (radius * outline)
    blur = 2.0 / size_px / radius
    cover = _step(1 - share, blur)
    if lesion.kind == "ring":
        value = 1.4 * np.exp(-(((share - 0.8) / 0.2) ** 2)) - 0.4
    elif lesion.kind == "solid":
        value = np.full_like(share, 0.9)
    else:
        value = 0.8 + 0.8 * _smooth_noise(random, size_px // 4, size_px)
        cover = np.clip(1.25 * np.exp(-((share / 0.7) ** 2)), 0, 1)
    return lesion.brightness * value, cover, share <= 1


def _box_around(mask: NDArray[np.bool_], kind: str) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) < 3 or len(columns) < 3:
        return None
    size_px = len(mask)
    top, bottom = rows[0] / size_px, (rows[-1] + 1) / size_px
    left, right = columns[0] / size_px, (columns[-1] + 1) / size_px
    return Box(kind, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _smooth_noise(random: np.random.Generator, cells: int, size_px: int) -> Field:
    """Return noise of mean about 0 and spread about 1 with `cells` bumps along a side."""
    coarse = Image.fromarray(random.normal(0, 1, size=(cells, cells)).astype(np.float32))
    fine = coarse.resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float64)


def _step(distance: Field, softness: float) -> Field:
    return np.clip(distance / softness * 0.5 + 0.5, 0, 1)


def _stream(patient: Patient, name: str) -> np.random.Generator:
    return np.random.default_rng(derived_seed(name, patient.seed))
