"""Demo data: head phantoms in the very folders that a user would bring."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.data import Box, derived_seed
from sightline.demo.config import DemoConfig, DemoUris
from sightline.demo.phantom import LESION_KINDS, Patient, draw_patient, draw_slice
from sightline.errors import UserError
from sightline.storage import Storage, open_storage
from sightline.telemetry import announce, track

MARKER_FILE = "demo-data.json"


def run(uris: DemoUris, config: DemoConfig) -> dict[str, Any]:
    """Draw the phantoms and write `images/`, `labels/`, `boxes/` and `table.csv`.

    Returns:
        How many pictures each folder got.

    Raises:
        UserError: If the folder holds anything that this command did not write.
    """
    storage = open_storage(uris.out_uri)
    clear_folder(storage)
    storage.write_bytes(MARKER_FILE, json.dumps(config.to_json(), indent=2).encode())
    written: Counter[str] = Counter()
    groups: dict[str, str] = {}
    patients = [*labelled_patients(config), *other_patients(config)]
    with ThreadPoolExecutor(8) as pool:
        for patient in track(patients, "demo-data: drawing patients"):
            files = dict(draw_files(patient, config))
            # Each write waits for the disk, and those waits pass together.
            list(pool.map(storage.write_bytes, files, files.values()))
            written.update(key.split("/")[0] for key in files if key.endswith(".png"))
            groups |= {key.rsplit("/", 1)[-1]: patient.name for key in files}
    names = "".join(f"  {place}: {kind}\n" for place, kind in enumerate(LESION_KINDS))
    storage.write_bytes("boxes/data.yaml", f"train: images\nval: images\nnames:\n{names}".encode())
    rows = "".join(f"{n},{groups[n]}\n" for n in sorted(groups) if n.endswith(".png"))
    storage.write_bytes("table.csv", f"name,group\n{rows}".encode())
    announce_result(uris.out_uri, written, len(patients))
    return {"pictures": dict(written), "patients": len(patients)}


def clear_folder(storage: Storage) -> None:
    """Remove what an earlier call wrote.

    Raises:
        UserError: If the folder holds files and no mark of this command.
    """
    entries = list(storage.list())
    if entries and not storage.exists(MARKER_FILE):
        raise UserError(
            f"{storage.uri} is not empty and was not made by demo-data (it holds "
            f"{entries[0].key}): choose another folder"
        )
    for entry in entries:
        if entry.key.split("/")[0] in ("images", "labels", "boxes", "table.csv"):
            storage.delete(entry.key)


def labelled_patients(config: DemoConfig) -> list[Patient]:
    """Draw the patients whose lesion is labelled; the kinds take turns."""
    return [
        draw_patient(f"patient-{number:04d}", config.seed, LESION_KINDS[number % len(LESION_KINDS)])
        for number in range(config.patients)
    ]


def other_patients(config: DemoConfig) -> list[Patient]:
    """Draw the patients of `images/` alone, then the healthy ones of `boxes/`."""
    start = config.patients
    unlabelled = [
        draw_patient(f"extra-{number:04d}", config.seed, LESION_KINDS[number % len(LESION_KINDS)])
        for number in range(start, start + config.unlabelled_patients)
    ]
    healthy = [
        draw_patient(f"healthy-{number:04d}", config.seed, None)
        for number in range(config.healthy_boxed_slices)
    ]
    return unlabelled + healthy


def draw_files(patient: Patient, config: DemoConfig) -> Iterator[tuple[str, bytes]]:
    """Yield a patient's files: pictures, and label files beside those with boxes."""
    is_labelled = patient.name.startswith("patient-")
    is_healthy = patient.lesion is None
    hits = 0 if is_healthy else config.slices_per_patient
    others = 1 if is_healthy else config.unlabelled_slices_per_patient
    for number, position in enumerate(slice_positions(patient, hits, others)):
        pixels, box = draw_slice(patient, position, config.image_size_px)
        content = encode_png(pixels)
        name = f"{patient.name}_slice-{number:02d}"
        yield f"images/{name}.png", content
        if is_labelled and patient.lesion and number < hits:
            yield f"labels/{patient.lesion.kind}/{name}.png", content
        if is_healthy or (is_labelled and number < min(hits, config.boxed_slices_per_patient)):
            yield f"boxes/images/{name}.png", content
            yield f"boxes/labels/{name}.txt", format_label(box)


def slice_positions(patient: Patient, hits: int, others: int) -> list[float]:
    """Return the heights of slices: `hits` through the lesion, then `others` anywhere."""
    random = np.random.default_rng(derived_seed("positions", patient.seed))
    through = []
    if patient.lesion is not None:
        reach = 0.6 * patient.lesion.radius
        steps = np.linspace(-reach, reach, hits + 2)[1:-1]
        through = [float(patient.lesion.depth + step) for step in steps]
    return through + [float(position) for position in random.uniform(-0.9, 0.9, size=others)]


def format_label(box: Box | None) -> bytes:
    """Return a YOLO label file; a slice without a lesion has an empty one."""
    if box is None:
        return b""
    numbers = (box.x_center, box.y_center, box.width, box.height)
    place = LESION_KINDS.index(box.class_name)
    return f"{place} {' '.join(f'{number:.6f}' for number in numbers)}\n".encode()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return gray pixels as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def announce_result(uri: str, written: Counter[str], patients: int) -> None:
    """Say what was written and how to use it."""
    counts = ", ".join(f"{written[name]} {name}" for name in ("images", "labels", "boxes"))
    announce("demo-data", f"{counts} of {patients} patients under {uri}")
    announce(
        "demo-data",
        f"use it: python -m pipelines run --images {uri}/images --labels {uri}/labels "
        f"--boxes {uri}/boxes --table {uri}/table.csv --preset demo --out {uri}-run",
    )
