"""Reading, checking and packing every image, on all cores, as a stream."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import BoundedSemaphore

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from sightline.config import UserError
from sightline.data import SPLITS
from sightline.data.images import CheckedImage, ImageError, read_file
from sightline.data.shards import Member, Shard, ShardWriter
from sightline.machine import usable_cores
from sightline.prepare.catalogue import KINDS, THUMBNAIL_SIDE_PX, Catalogue, Stage
from sightline.prepare.config import PrepareConfig
from sightline.prepare.file_errors import read_listed
from sightline.prepare.folders import Findings, count_files
from sightline.prepare.window import map_in_window
from sightline.storage import Storage, open_storage
from sightline.telemetry import announce, format_duration, track

_TIMED_SECONDS = 3.0
_JPEG_QUALITY = 95
_JPEG_SAMPLINGS = ("444", "422", "420")


@dataclass(frozen=True)
class FileToRead:
    """A file of the catalogue whose turn has come."""

    id: int
    kind: str
    key: str
    label: str | None
    split: str
    size_bytes: int


@dataclass(frozen=True)
class ReadPicture:
    """A picture that was read right: its bytes as they will be stored, and what tells copies apart.

    `pixels` is a hash of size and pixels before any scaling; `thumbnail` is gray, 32 x 32 bytes.
    """

    content: bytes
    suffix: str
    width: int
    height: int
    is_scaled: bool
    pixels: bytes
    thumbnail: bytes
    notes: tuple[str, ...]
    frame: int
    patient: str


def read_all(
    found: Iterable[Findings], catalogue: Catalogue, store_uri: str, config: PrepareConfig
) -> dict[int, list[Shard]]:
    """Read every file in its turn, store its pictures in shards, and note both in the catalogue.

    What cannot be read is rejected. Kinds and splits have shards of their own, as far as splits
    are known before the images are read.

    Returns:
        The stored shards of each writer, in their order.

    Raises:
        UserError: If more of a folder's images are rejected than the settings allow; as soon as
            that is certain, and not after all of them were read.
    """
    side = config.stored_short_side_px
    reader = _Reader(
        {findings.kind: open_storage(findings.uri) for findings in found},
        {"images": side, "labels": side, "boxes": config.boxes_short_side_px},
        config,
    )
    total = catalogue.value("SELECT COUNT(*) FROM files WHERE rejected IS NULL")
    columns = "files.id, kind, key, label, groups.split, size_bytes"
    files = (FileToRead(*row) for row in catalogue.files_by("turn", columns))
    results = map_in_window(reader.read, files, reader.threads, lambda file: file.size_bytes)
    limits = [_BadLimit(findings, catalogue, config) for findings in found]
    with ExitStack() as stack:
        size_bytes = config.shard_size_mib * 2**20
        writers: dict[int, ShardWriter] = {}
        for file, result in track(_estimate(results, total), "prepare: reading images", total):
            if isinstance(result, ImageError):
                catalogue.reject(file.id, Stage.READING, str(result))
                for limit in limits:
                    limit.count(file)
                continue
            number = len(SPLITS) * KINDS.index(file.kind) + SPLITS.index(file.split)
            if number not in writers:
                writers[number] = stack.enter_context(ShardWriter(store_uri, size_bytes))
            for picture in result:
                member = writers[number].add(picture.content, picture.suffix)
                _note(catalogue, file, picture, number, member)
        for findings in found:
            refuse_too_many_rejected(findings, catalogue, config.max_bad_fraction)
        for writer in writers.values():
            writer.end()  # the last shards leave side by side
        return {number: writer.close() for number, writer in writers.items()}


def refuse_too_many_rejected(
    findings: Findings, catalogue: Catalogue, max_bad_fraction: float
) -> None:
    """Fail when a folder has more bad images than the settings allow.

    Raises:
        UserError: With the first reasons.
    """
    bad = _count_rejected(findings, catalogue)
    good = catalogue.value(
        "SELECT COUNT(*) FROM pictures WHERE kind = ? AND rejected IS NULL", (findings.kind,)
    )
    if bad > max_bad_fraction * (bad + good):
        raise _too_many_rejected(findings, catalogue, f"{bad} of {bad + good}", max_bad_fraction)


def _count_rejected(findings: Findings, catalogue: Catalogue) -> int:
    return int(catalogue.value("SELECT COUNT(*) FROM rejected WHERE kind = ?", (findings.kind,)))


def _too_many_rejected(
    findings: Findings, catalogue: Catalogue, how_many: str, max_bad_fraction: float
) -> UserError:
    first = catalogue.rows(
        "SELECT name, reason FROM rejected WHERE kind = ? ORDER BY stage, file LIMIT 3",
        (findings.kind,),
    )
    shown = "; ".join(f"{name}: {why}" for name, why in first)
    return UserError(
        f"{how_many} images of {findings.kind}_uri {findings.uri} are rejected, "
        f"more than max_bad_fraction {max_bad_fraction:g}: {shown}"
    )


class _BadLimit:
    """Counts the bad files of a folder, and fails once no good one can make up for them."""

    def __init__(self, findings: Findings, catalogue: Catalogue, config: PrepareConfig) -> None:
        self._findings = findings
        self._catalogue = catalogue
        self._fraction = config.max_bad_fraction
        self._listed = count_files(catalogue, findings.kind)
        self._bad = _count_rejected(findings, catalogue)
        # How many images a DICOM file with frames will give is not known before.
        is_open = config.dicom_frames == "split" and findings.kind != "boxes"
        self._most = math.inf if is_open else self._fraction * self._listed
        self._check()

    def count(self, file: FileToRead) -> None:
        """Count a file, if it is this folder's.

        Raises:
            UserError: If so many are bad that the limit is exceeded whatever the others are.
        """
        if file.kind == self._findings.kind:
            self._bad += 1
            self._check()

    def _check(self) -> None:
        if self._bad > self._most:
            so_far = f"at least {self._bad} of {self._listed}"
            raise _too_many_rejected(self._findings, self._catalogue, so_far, self._fraction)


class _Reader:
    """Reads files in threads: many wait for a store, and as many as there are cores decode."""

    def __init__(
        self,
        storages: Mapping[str, Storage],
        short_side_px: Mapping[str, int],
        config: PrepareConfig,
    ) -> None:
        self._storages = storages
        self._short_side_px = short_side_px
        self._dicom_frames = config.dicom_frames
        cores = usable_cores()
        # Those that decode, or wait for their turn to, ask the store for nothing meanwhile.
        requests = max(storage.parallel_requests for storage in storages.values())
        self.threads = requests + 2 * cores
        # A decoded picture may take 150 MB.
        self._decoding = BoundedSemaphore(cores)

    def read(self, file: FileToRead) -> tuple[FileToRead, list[ReadPicture] | ImageError]:
        # The boxes of a file are those of one picture.
        frames = "refuse" if file.kind == "boxes" else self._dicom_frames
        try:
            content = read_listed(self._storages[file.kind].read_bytes, file.key)
            with self._decoding:
                images = read_file(content, file.key, dicom_frames=frames)
                short_side_px = self._short_side_px[file.kind]
                return file, [_pack(content, image, short_side_px) for image in images]
        except ImageError as error:
            return file, error


def _pack(content: bytes, checked: CheckedImage, short_side_px: int) -> ReadPicture:
    pixels, suffix = checked.pixels, checked.suffix
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{height} {width}".encode())
    digest.update(pixels.data)
    picture = Image.fromarray(pixels)
    small = _shrink(picture)
    scale = short_side_px / min(width, height)
    if scale < 1 or not checked.is_plain:
        if scale < 1:
            width, height = max(1, round(width * scale)), max(1, round(height * scale))
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        # What was JPEG and is scaled has lost its exact values already, and is decoded 10 times as
        # fast as PNG; whatever else is changed keeps every value.
        suffix = suffix if scale < 1 else "png"
        content = _encode_jpeg(picture, content) if suffix == "jpg" else _encode_png(picture)
    return ReadPicture(
        content=content,
        suffix=suffix,
        width=width,
        height=height,
        is_scaled=scale < 1,
        pixels=digest.digest(),
        thumbnail=small.tobytes(),
        notes=checked.notes,
        frame=checked.frame,
        patient=checked.patient,
    )


def _shrink(picture: Image.Image) -> Image.Image:
    """Return the thumbnail of a picture: each pixel the mean of what it covers, in gray."""
    side = THUMBNAIL_SIDE_PX
    if picture.width % side == picture.height % side == 0:
        # Whole pixels make up each mean, and to add them up first takes two thirds of the time.
        return picture.reduce((picture.width // side, picture.height // side)).convert("L")
    return picture.convert("L").resize((side, side), Image.Resampling.BOX)


def _encode_jpeg(picture: Image.Image, original: bytes) -> bytes:
    pixels = np.asarray(picture)
    sampling = simplejpeg.decode_jpeg_header(original)[3]
    if _is_gray(pixels):
        gray = np.ascontiguousarray(pixels[:, :, :1])
        encoded: bytes = simplejpeg.encode_jpeg(gray, _JPEG_QUALITY, "GRAY", "Gray")
        return encoded
    # Colours as fine as the original has them.
    sampling = sampling if sampling in _JPEG_SAMPLINGS else "444"
    encoded = simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, "RGB", sampling)
    return encoded


def _encode_png(picture: Image.Image) -> bytes:
    pixels = np.asarray(picture)
    buffer = io.BytesIO()
    (Image.fromarray(pixels[:, :, 0]) if _is_gray(pixels) else picture).save(buffer, "PNG")
    return buffer.getvalue()


def _is_gray(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _note(
    catalogue: Catalogue, file: FileToRead, picture: ReadPicture, writer: int, member: Member
) -> None:
    values = {
        "file": file.id,
        "frame": picture.frame,
        "kind": file.kind,
        "name": f"{file.key}#{picture.frame}" if picture.frame else file.key,
        "label": file.label,
        "sha256": member.sha256,
        "writer": writer,
        "shard": member.shard,
        "offset_bytes": member.offset_bytes,
        "size_bytes": member.size_bytes,
        "width": picture.width,
        "height": picture.height,
        "is_scaled": picture.is_scaled,
        "pixels": picture.pixels,
        "notes": json.dumps(picture.notes) if picture.notes else None,
    }
    catalogue.add_picture(values, picture.thumbnail)
    if picture.patient:
        catalogue.execute("UPDATE files SET patient = ? WHERE id = ?", (picture.patient, file.id))


Result = tuple[FileToRead, list[ReadPicture] | ImageError]


def _estimate(results: Iterator[Result], total: int) -> Iterator[Result]:
    """Pass results on, and say once how long all of them take."""
    start = time.monotonic()
    is_told = False
    for done, result in enumerate(results, start=1):
        seconds = time.monotonic() - start
        if not is_told and seconds > _TIMED_SECONDS:
            is_told = True
            left = format_duration(seconds / done * (total - done))
            announce("prepare", f"reading {total} images takes about {left} here")
        yield result
