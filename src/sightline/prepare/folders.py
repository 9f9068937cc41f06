"""Which images lie in the user's folders, and what the folders say of them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sightline.config import UserError
from sightline.data import Box
from sightline.storage import open_storage
from sightline.storage.local import LocalStorage
from sightline.telemetry import count

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
    # Not read, but a user must see that they were left out.
    *(".pgm", ".ppm", ".pnm", ".dcm", ".dicom", ".nii", ".heic", ".avif", ".jp2"),
}
# What the layout itself consists of, and what trainings leave in it.
_YOLO_SUFFIXES = {".txt", ".yaml", ".yml", ".cache"}


@dataclass(frozen=True)
class FoundImage:
    """An image file before it is read: where it lies and what its folders and labels say.

    `own_name` is its path without the folders that only sort (`images/`, `train/`): a table may
    name it so.
    """

    kind: str
    key: str
    own_name: str
    folder_split: str | None = None
    label: str | None = None
    boxes: tuple[Box, ...] | None = None


@dataclass
class Findings:
    """What one folder holds: images, those refused with reasons, and what a user must know.

    `ignored` names the files that are no images, and no part of the layout either.
    """

    kind: str
    uri: str
    images: list[FoundImage] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    rejected: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many image files were found, the rejected ones included."""
        return len({*self.rejected, *(image.key for image in self.images)})


def find_images(uri: str) -> Findings:
    """Return every image below a folder, whatever its tree.

    Raises:
        UserError: If there is none.
    """
    findings = Findings("images", uri)
    for key in list_image_keys(findings):
        split, own_name = _take_split(key)
        findings.images.append(FoundImage("images", key, own_name, split))
    return findings


def find_class_folders(uri: str) -> Findings:
    """Return the images of class folders; the folder below the split is the class.

    Raises:
        UserError: If there are no images, no class folders or only one, or some images lie in
            split folders and others beside them.
    """
    findings = Findings("labels", uri)
    below_class = 0
    for key in list_image_keys(findings):
        split, own_name = _take_split(key)
        parts = own_name.split("/")
        if len(parts) == 1:
            findings.rejected[key] = "lies in no class folder"
            continue
        below_class += len(parts) > 2
        findings.images.append(FoundImage("labels", key, own_name, split, label=parts[0]))
    _check_class_folders(findings)
    if below_class:
        lie = "lies" if below_class == 1 else "lie"
        findings.warnings.append(
            f"{count(below_class, 'labelled image')} {lie} in folders below the class folder; the "
            "class is the folder right below the data set (or its split)"
        )
    findings.classes = tuple(sorted({str(image.label) for image in findings.images}))
    return findings


def list_image_keys(findings: Findings) -> list[str]:
    """Return the keys of a folder's image files, and say which other files were left alone.

    Raises:
        UserError: If there is no image file.
    """
    keys, others = [], Counter[str]()
    for lost in _find_lost_links(findings.uri):
        if _is_hidden(PurePosixPath(lost)):
            continue
        if PurePosixPath(lost).suffix.lower() in _IMAGE_SUFFIXES:
            findings.rejected[_shown(lost)] = "a link to a file that is not there"
        else:
            findings.ignored.append(f"{_shown(lost)} (a link to a file that is not there)")
    for entry in open_storage(findings.uri).list():
        path = PurePosixPath(entry.key)
        if _is_hidden(path):
            continue
        if not _is_utf8(entry.key):
            findings.rejected[_shown(entry.key)] = "its name is not valid UTF-8: rename it"
        elif path.suffix.lower() in _IMAGE_SUFFIXES:
            keys.append(entry.key)
        else:
            others[path.suffix.lower() or "no suffix"] += 1
            if findings.kind != "boxes" or path.suffix.lower() not in _YOLO_SUFFIXES:
                findings.ignored.append(entry.key)
    if not keys:
        raise UserError(_explain_no_images(findings, others))
    known = {".txt", ".yaml", ".yml", ".csv", ".md", ".json", ".cache"}
    strange = {suffix: files for suffix, files in others.items() if suffix not in known}
    if strange:
        listed = ", ".join(f"{files} x {suffix}" for suffix, files in sorted(strange.items()))
        findings.warnings.append(f"files that are no images were left alone: {listed}")
    return keys


def _find_lost_links(uri: str) -> list[str]:
    # A storage lists what can be read; that a picture's link is broken only its folder knows.
    storage = open_storage(uri)
    if not isinstance(storage, LocalStorage):
        return []
    return sorted(
        Path(folder, name).relative_to(storage.root).as_posix()
        for folder, _, names in os.walk(storage.root)
        for name in names
        if Path(folder, name).is_symlink() and not Path(folder, name).exists()
    )


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _shown(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()


def _explain_no_images(findings: Findings, others: Counter[str]) -> str:
    start = f"{findings.kind}_uri {findings.uri} needs images, got "
    if findings.rejected:
        first, reason = next(iter(findings.rejected.items()))
        return start + f"none that can be read, such as {first}: {reason}"
    if others:
        listed = ", ".join(f"{files} x {suffix}" for suffix, files in others.most_common(5))
        return start + f"none: it holds {listed}; PNG, JPEG, TIFF, BMP, GIF and WebP are read"
    return start + "no file at all: check that the folder exists and is not empty"


def _take_split(key: str) -> tuple[str | None, str]:
    first, slash, rest = key.partition("/")
    split = SPLIT_NAMES.get(first.lower())
    return (split, rest) if slash and split else (None, key)


def _check_class_folders(findings: Findings) -> None:
    uri, images = findings.uri, findings.images
    if not images:
        raise UserError(
            f"labels_uri {uri} needs class folders such as {uri}/glioma/x.png, got images without "
            "any: sort them into folders, or give the folder as images_uri"
        )
    loose = sorted({image.key.split("/")[0] for image in images if image.folder_split is None})
    if loose and len(loose) < len({image.key.split("/")[0] for image in images}):
        raise UserError(
            f"labels_uri {uri} has split folders (train, val, test) and beside them "
            f"{', '.join(loose[:5])}: move every class folder into a split folder, or none"
        )
    classes = sorted({str(image.label) for image in images})
    if len(classes) == 1:
        inner = sorted({i.own_name.split("/")[1] for i in images if i.own_name.count("/") > 1})
        hint = "give images of one kind only as images_uri"
        if len(inner) > 1:
            hint = (
                f"did you mean {uri.rstrip('/')}/{classes[0]}, which holds {', '.join(inner[:5])}?"
            )
        raise UserError(
            f"labels_uri {uri} needs at least 2 class folders, got 1 ({classes[0]}): {hint}"
        )


def _is_utf8(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
