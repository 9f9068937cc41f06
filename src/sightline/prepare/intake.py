"""Reading, checking and packing every image, on all cores, as a stream."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass

from sightline.data import SPLITS
from sightline.data.shards import Member, ShardWriter
from sightline.errors import UserError
from sightline.images import ImageError
from sightline.machine import usable_cores
from sightline.prepare.catalogue import KINDS, Catalogue, Stage
from sightline.prepare.checking import CheckingProcess
from sightline.prepare.config import PrepareConfig
from sightline.prepare.file_errors import read_listed
from sightline.prepare.folders import Findings, count_files
from sightline.prepare.pictures import ReadPicture, Wanted, read_pictures
from sightline.prepare.window import Serve, each, map_twice_in_window
from sightline.storage import Storage, open_storage
from sightline.telemetry import announce, format_duration, track

_TIMED_SECONDS = 3.0
_TIMED_IMAGES = 30
PROCESSES_FROM = 3000
"""Files from which processes pay: each takes 0.25 s of a core to start."""
PROCESSES_FROM_REQUESTS = 16
"""Requests at once from which they pay: the few threads that read a folder hardly contend."""


@dataclass(frozen=True)
class FileToRead:
    """A file of the catalogue whose turn has come."""

    id: int
    kind: str
    key: str
    label: str | None
    split: str
    size_bytes: int


Fetched = tuple[FileToRead, Wanted, bytes | ImageError]
Result = tuple[FileToRead, bytes, list[ReadPicture] | ImageError]


def read_all(
    found: Iterable[Findings],
    catalogue: Catalogue,
    store_uri: str,
    config: PrepareConfig,
    writing: ExitStack,
) -> dict[int, ShardWriter]:
    """Read every file in its turn, store its pictures in shards, and note both in the catalogue.

    What cannot be read is rejected. Kinds and splits have shards of their own, as far as splits
    are known before the images are read.

    Args:
        found: The folders, whose files are in the catalogue.
        catalogue: What is known of them.
        store_uri: Where the shards go.
        config: How images are checked and stored.
        writing: What the writers end with.

    Returns:
        The writers by number; their last shards are on their way until they are closed.

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
    results = map_twice_in_window(
        reader.fetch,
        reader.requests,
        start_checking(total, reader.requests),
        files,
        lambda file: file.size_bytes,
    )
    limits = [_BadLimit(findings, catalogue, config) for findings in found]
    size_bytes = config.shard_size_mib * 2**20
    writers: dict[int, ShardWriter] = {}
    with closing(results):  # also on an error, which would keep it and its threads
        for file, content, result in track(
            _estimate(results, total), "prepare: reading images", total
        ):
            if isinstance(result, ImageError):
                catalogue.reject(file.id, Stage.READING, str(result))
                for limit in limits:
                    limit.count(file)
                continue
            number = len(SPLITS) * KINDS.index(file.kind) + SPLITS.index(file.split)
            if number not in writers:
                writers[number] = writing.enter_context(ShardWriter(store_uri, size_bytes))
            for picture in result:
                member = writers[number].add(
                    picture.content or content, picture.suffix, picture.sha256
                )
                _note(catalogue, file, picture, number, member)
    for findings in found:
        refuse_too_many_rejected(findings, catalogue, config.max_bad_fraction)
    for writer in writers.values():
        writer.end()  # the last shards leave side by side
    return writers


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
    """Fetches files, in many threads: most of them wait for a store."""

    def __init__(
        self,
        storages: Mapping[str, Storage],
        short_side_px: Mapping[str, int],
        config: PrepareConfig,
    ) -> None:
        self._storages = storages
        self._short_side_px = short_side_px
        self._dicom_frames = config.dicom_frames
        self.requests = max(storage.parallel_requests for storage in storages.values())

    def fetch(self, file: FileToRead) -> Fetched:
        # The boxes of a file are those of one picture.
        frames = "refuse" if file.kind == "boxes" else self._dicom_frames
        wanted = Wanted(file.key, frames, self._short_side_px[file.kind])
        try:
            return file, wanted, read_listed(self._storages[file.kind].read_bytes, file.key)
        except ImageError as error:
            return file, wanted, error


def start_checking(files: int, requests: int) -> list[Serve]:
    """Return what checks the fetched files: a picture for each core at once.

    A large set from a server is checked in processes of their own: the many threads that wait for
    the server, and those that check, would wait for Python's lock as well.
    """
    cores = usable_cores()
    if cores == 1 or files < PROCESSES_FROM or requests < PROCESSES_FROM_REQUESTS:
        return [each(_check)] * cores
    return [CheckingProcess().serve for _ in range(cores)]


def _check(fetched: Fetched) -> Result:
    file, wanted, content = fetched
    if isinstance(content, ImageError):
        return file, b"", content
    try:
        return file, content, read_pictures(content, wanted)
    except ImageError as error:
        return file, content, error


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


def _estimate(results: Iterator[Result], total: int) -> Iterator[Result]:
    """Pass results on, and say once how long all of them take."""
    # From the first result on: what comes before it is the start of the threads and processes.
    start = math.inf
    is_told = False
    for done, result in enumerate(results):
        start = min(start, time.monotonic())
        seconds = time.monotonic() - start
        if not is_told and seconds > _TIMED_SECONDS and done >= _TIMED_IMAGES:
            is_told = True
            left = format_duration(seconds / done * (total - done))
            announce("prepare", f"reading {total} images takes about {left} here")
        yield result
