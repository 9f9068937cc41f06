"""Reading, checking and packing every image, on all cores."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.config import UserError
from sightline.data.images import ImageError, check_image
from sightline.prepare.folders import Findings, FoundImage
from sightline.storage import Storage, open_storage
from sightline.telemetry import announce, format_duration, track

THUMBNAIL_SIDE_PX = 32
_TIMED_IMAGES = 24


@dataclass(frozen=True)
class ReadImage:
    """An image that was read right: its bytes as they will be stored, and what tells copies apart.

    `thumbnail` is gray, shape (32, 32), float32, 0..255; `pixels_sha256` covers size and pixels
    before any scaling.
    """

    found: FoundImage
    content: bytes
    suffix: str
    width: int
    height: int
    pixels_sha256: str
    thumbnail: NDArray[np.float32]
    notes: tuple[str, ...]


def read_all(
    found: Sequence[Findings], short_side_px: dict[str, int], max_bad_fraction: float
) -> list[ReadImage]:
    """Read and check every image that was found; what cannot be read is added to `rejected`.

    Args:
        found: The folders' findings; their `rejected` grow.
        short_side_px: For each kind, the short side above which an image is scaled down.
        max_bad_fraction: Share of a folder's images that may be rejected.

    Raises:
        UserError: If more of a folder's images are rejected, with the reasons.
    """
    jobs = [(findings, image) for findings in found for image in findings.images]
    storages = {findings.kind: open_storage(findings.uri) for findings in found}
    workers = os.cpu_count() or 1

    def read(job: tuple[Findings, FoundImage]) -> ReadImage | ImageError:
        _, image = job
        try:
            return _read(storages[image.kind], image, short_side_px[image.kind])
        except ImageError as error:
            return error

    start = time.monotonic()
    results = [read(job) for job in jobs[:_TIMED_IMAGES]]
    if len(jobs) > len(results):
        seconds = (time.monotonic() - start) / len(results) * (len(jobs) - len(results)) / workers
        announce(
            "prepare", f"reading {len(jobs)} images takes about {format_duration(seconds)} here"
        )
    with ThreadPoolExecutor(workers) as pool:
        rest = pool.map(read, jobs[_TIMED_IMAGES:])
        results += track(rest, "prepare: reading images", len(jobs) - len(results))
    images = []
    for (findings, image), result in zip(jobs, results, strict=True):
        if isinstance(result, ImageError):
            findings.rejected[image.key] = str(result)
        else:
            images.append(result)
    for findings in found:
        refuse_too_many_rejected(findings, max_bad_fraction)
    return images


def refuse_too_many_rejected(findings: Findings, max_bad_fraction: float) -> None:
    """Fail when a folder has more bad images than the settings allow.

    Raises:
        UserError: With the first reasons.
    """
    bad, total = len(findings.rejected), findings.files
    if bad > max_bad_fraction * total:
        shown = "; ".join(f"{key}: {why}" for key, why in list(findings.rejected.items())[:10])
        raise UserError(
            f"{bad} of {total} images of {findings.kind}_uri {findings.uri} are rejected, more "
            f"than max_bad_fraction {max_bad_fraction:g}: {shown}"
        )


def _read(storage: Storage, image: FoundImage, short_side_px: int) -> ReadImage:
    content = storage.read_bytes(image.key)
    checked = check_image(content)
    pixels, suffix = checked.pixels, checked.suffix
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{height} {width}".encode() + pixels.tobytes()).hexdigest()
    picture = Image.fromarray(pixels)
    small = picture.convert("L").resize((THUMBNAIL_SIDE_PX,) * 2, Image.Resampling.BOX)
    scale = short_side_px / min(width, height)
    if scale < 1 or not checked.is_plain:
        if scale < 1:
            width, height = max(1, round(width * scale)), max(1, round(height * scale))
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        content, suffix = _encode(picture), "png"
    return ReadImage(
        found=image,
        content=content,
        suffix=suffix,
        width=width,
        height=height,
        pixels_sha256=digest,
        thumbnail=np.asarray(small, dtype=np.float32),
        notes=checked.notes,
    )


def _encode(picture: Image.Image) -> bytes:
    pixels = np.asarray(picture)
    if (pixels == pixels[:, :, :1]).all():
        picture = Image.fromarray(pixels[:, :, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
