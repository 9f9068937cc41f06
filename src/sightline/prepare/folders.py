"""Which images lie in the user's folders, and what the folders say of them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sightline.errors import UserError
from sightline.images import SUFFIXES
from sightline.prepare.catalogue import Catalogue, ListedFile, Stage
from sightline.prepare.nameless import NamelessImages
from sightline.storage import Entry, open_storage
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
    *(suffix for suffixes in SUFFIXES.values() for suffix in suffixes),
    *(".dcm", ".dicom", ".ima"),
    # Not read, but a user must see that they were left out.
    *(".nii", ".heic", ".avif", ".jp2"),
}
# What the layout itself consists of, and what trainings leave in it.
_YOLO_SUFFIXES = {".txt", ".yaml", ".yml", ".cache"}
_HIDDEN = "hidden image"
SHOWN_IGNORED = 50


@dataclass
class Findings:
    """What one folder holds besides the files in the catalogue, and what a user must know.

    `ignored` counts the files that are no images, and no part of the layout either;
    `first_ignored` names the first of them.
    """

    kind: str
    uri: str
    classes: tuple[str, ...] = ()
    key_point_numbers: int = 0
    """How many numbers of key points follow each box."""
    ignored: int = 0
    first_ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def ignore(self, name: str) -> None:
        """Count a file that is left alone."""
        self.ignored += 1
        if len(self.first_ignored) < SHOWN_IGNORED:
            self.first_ignored.append(name)


def count_files(catalogue: Catalogue, kind: str) -> int:
    """Return how many image files a folder holds, the rejected ones included."""
    return int(catalogue.value("SELECT COUNT(*) FROM files WHERE kind = ?", (kind,)))


def find_images(uri: str, catalogue: Catalogue) -> Findings:
    """Add every image below a folder, whatever its tree.

    Raises:
        UserError: If there is none.
    """
    findings = Findings("images", uri)

    def describe(entry: Entry) -> ListedFile:
        split, own_name = _take_split(entry.key)
        return ListedFile("images", entry.key, entry.size_bytes, own_name, split)

    list_image_files(findings, catalogue, describe)
    return findings


def find_class_folders(uri: str, catalogue: Catalogue) -> Findings:
    """Add the images of class folders; the folder below the split is the class.

    Raises:
        UserError: If there are no images, no class folders or only one, or some images lie in
            split folders and others beside them.
    """
    findings = Findings("labels", uri)
    below_class = 0
    splits_below, first_below = 0, ""

    def describe(entry: Entry) -> ListedFile:
        nonlocal below_class, splits_below, first_below
        split, own_name = _take_split(entry.key)
        class_name, *below = own_name.split("/")
        if not below:
            return reject(findings, entry.key, Stage.LAYOUT, "lies in no class folder")
        below_class += len(below) > 1
        if split is None and below[0].lower() in SPLIT_NAMES and len(below) > 1:
            splits_below += 1
            first_below = first_below or entry.key
        class_name = unicodedata.normalize("NFC", class_name)  # macOS writes é as two letters
        return ListedFile("labels", entry.key, entry.size_bytes, own_name, split, class_name)

    list_image_files(findings, catalogue, describe)
    if splits_below:
        class_name, split, *_ = first_below.split("/")
        raise UserError(
            f"labels_uri {uri} has split folders below the class folders, such as "
            f"{class_name}/{split} ({count(splits_below, 'image')}): put the split above the "
            f"class, {split}/{class_name}, or the classes' images together"
        )
    findings.classes = tuple(
        catalogue.values(
            "SELECT DISTINCT label FROM files WHERE kind = 'labels' AND label IS NOT NULL "
            "ORDER BY label"
        )
    )
    _check_class_folders(findings, catalogue)
    if below_class:
        lie = "lies" if below_class == 1 else "lie"
        findings.warnings.append(
            f"{count(below_class, 'labelled image')} {lie} in folders below the class folder; the "
            "class is the folder right below the data set (or its split)"
        )
    return findings


def reject_large_files(catalogue: Catalogue, max_file_mib: int) -> None:
    """Reject, by the sizes in the listing, the files that are too large to be read whole."""
    catalogue.execute(
        "UPDATE files SET stage = ?, rejected = 'has ' || ((size_bytes + 1048575) / 1048576) || ? "
        "WHERE rejected IS NULL AND size_bytes > ?",
        # It keeps its say on groups and splits, as every file does that cannot be read.
        (
            int(Stage.READING),
            f" MiB, more than max_file_mib {max_file_mib}",
            max_file_mib * 2**20,
        ),
    )


def reject(findings: Findings, key: str, stage: Stage, reason: str) -> ListedFile:
    """Return a file that is listed only to be told as rejected."""
    return ListedFile(findings.kind, key, stage=stage, rejected=reason)


def list_image_files(
    findings: Findings,
    catalogue: Catalogue,
    describe: Callable[[Entry], ListedFile],
    see_other: Callable[[Entry], None] = lambda _: None,
) -> None:
    """Add a folder's image files, and say which other files were left alone.

    Args:
        findings: The folder; what must be told is added.
        catalogue: Where the files go, as they are listed.
        describe: Says what an image file's path tells.
        see_other: Called for each file that is no image by its name.

    Raises:
        UserError: If there is no image file.
    """
    others = Counter[str]()
    images = 0
    first_hidden = ""

    def walk() -> Iterator[ListedFile]:
        nonlocal images, first_hidden
        for lost in _find_lost_links(findings.uri):
            if _is_hidden(PurePosixPath(lost)):
                continue
            if PurePosixPath(lost).suffix.lower() in _IMAGE_SUFFIXES:
                why = "a link to a file that is not there"
                yield reject(findings, _shown(lost), Stage.LISTING, why)
            else:
                findings.ignore(f"{_shown(lost)} (a link to a file that is not there)")
        storage = open_storage(findings.uri)
        nameless = NamelessImages(storage)
        for entry in storage.list():
            path = PurePosixPath(entry.key)
            suffix = path.suffix.lower()
            if why := _why_no_path(entry.key):
                yield reject(findings, _shown(entry.key), Stage.LISTING, why)
                continue
            if _is_hidden(path):
                if suffix in _IMAGE_SUFFIXES and not _is_of_macos(path):
                    others[_HIDDEN] += 1
                    first_hidden = first_hidden or _shown(entry.key)
                continue
            if not _is_utf8(entry.key):
                why = "its name is not valid UTF-8: rename it"
                yield reject(findings, _shown(entry.key), Stage.LISTING, why)
            elif suffix in _IMAGE_SUFFIXES or nameless.has(entry.key):
                images += 1
                yield describe(entry)
            else:
                others[suffix or "no suffix"] += 1
                if findings.kind != "boxes" or suffix not in _YOLO_SUFFIXES:
                    findings.ignore(entry.key)
                see_other(entry)

    catalogue.add_files(walk())
    if not images:
        raise UserError(_explain_no_images(findings, catalogue, others))
    if hidden := others.pop(_HIDDEN, 0):
        findings.warnings.append(
            f"{count(hidden, _HIDDEN)} {'was' if hidden == 1 else 'were'} left alone, such as "
            f"{first_hidden}: rename what begins with a dot to have it read"
        )
    known = {".txt", ".yaml", ".yml", ".csv", ".md", ".json", ".cache"}
    strange = {suffix: files for suffix, files in others.items() if suffix not in known}
    if strange:
        listed = ", ".join(f"{files} x {suffix}" for suffix, files in sorted(strange.items()))
        findings.warnings.append(f"files that are no images were left alone: {listed}")


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


def _is_of_macos(path: PurePosixPath) -> bool:
    # What macOS notes beside each image, under the image's own suffix.
    return path.name.startswith("._") or "__MACOSX" in path.parts


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _shown(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()


def _explain_no_images(findings: Findings, catalogue: Catalogue, others: Counter[str]) -> str:
    start = f"{findings.kind}_uri {findings.uri} needs images, got "
    rejected = catalogue.rows(
        "SELECT key, rejected FROM files WHERE kind = ? ORDER BY id LIMIT 1", (findings.kind,)
    )
    for first, reason in rejected:
        return start + f"none that can be read, such as {first}: {reason}"
    if others:
        listed = ", ".join(f"{files} x {suffix}" for suffix, files in others.most_common(5))
        read = "PNG, JPEG, TIFF, BMP, GIF, WebP and DICOM"
        return start + f"none: it holds {listed}; {read} are read"
    return start + "no file at all: check that the folder exists and is not empty"


def _take_split(key: str) -> tuple[str | None, str]:
    first, slash, rest = key.partition("/")
    split = SPLIT_NAMES.get(first.lower())
    return (split, rest) if slash and split else (None, key)


def _check_class_folders(findings: Findings, catalogue: Catalogue) -> None:
    uri, classes = findings.uri, findings.classes
    if not classes:
        raise UserError(
            f"labels_uri {uri} needs class folders such as {uri}/glioma/x.png, got images without "
            "any: sort them into folders, or give the folder as images_uri"
        )
    in_class = "FROM files WHERE kind = 'labels' AND label IS NOT NULL"
    loose = catalogue.values(
        f"SELECT DISTINCT label {in_class} AND folder_split IS NULL ORDER BY 1"
    )
    if loose and catalogue.value(f"SELECT COUNT(folder_split) {in_class}"):
        raise UserError(
            f"labels_uri {uri} has split folders (train, val, test) and beside them "
            f"{', '.join(loose[:5])}: move every class folder into a split folder, or none"
        )
    if len(classes) == 1:
        names = catalogue.rows(f"SELECT own_name {in_class} AND own_name LIKE '%/%/%'")
        inner = sorted({name.split("/")[1] for (name,) in names})
        hint = "give images of one kind only as images_uri"
        if len(inner) > 1:
            hint = (
                f"did you mean {uri.rstrip('/')}/{classes[0]}, which holds {', '.join(inner[:5])}?"
            )
        raise UserError(
            f"labels_uri {uri} needs at least 2 class folders, got 1 ({classes[0]}): {hint}"
        )


def _why_no_path(key: str) -> str:
    """Return why a key of a bucket is no path below a folder; empty: it is one."""
    if {".", ".."} & set(key.split("/")):
        return "its path holds . or .., which no folder can: rename it"
    if key.startswith("/"):
        return "its key has two / after the address, which no folder can: rename it"
    return ""


def _is_utf8(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
