"""Images whose names do not tell that they are: scanners write IM0001, archives 1.2.840.10008.5."""

from __future__ import annotations

from pathlib import PurePosixPath

from sightline.images import ImageError
from sightline.images.headers import JPEG_START, PNG_START
from sightline.prepare.file_errors import read_listed
from sightline.storage import Storage

_START_BYTES = 132
_TRIES_A_FOLDER = 3
_MAX_FOLDERS = 10_000
# An index of the files beside it, which is DICOM itself.
_DICOM_INDEX = "DICOMDIR"


class NamelessImages:
    """Looks at the first bytes of a few files of each folder, so that a series costs few requests.

    Where one of the first three such files of a folder is an image, all of them are taken for
    images, and what is none is rejected when it is read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._tries: dict[str, int] = {}
        """How many more files of a folder are looked at; -1: images were found there."""

    def has(self, key: str) -> bool:
        """Say whether a file without a telling suffix is an image."""
        path = PurePosixPath(key)
        if path.name.upper() == _DICOM_INDEX or not is_nameless(path):
            return False
        folder = str(path.parent)
        left = self._tries.get(folder, _TRIES_A_FOLDER)
        if left > 0:
            if len(self._tries) >= _MAX_FOLDERS:
                self._tries.clear()
            left = -1 if self._starts_as_image(key) else left - 1
            self._tries[folder] = left
        return left < 0

    def _starts_as_image(self, key: str) -> bool:
        try:
            start = read_listed(lambda k: self._storage.read_bytes(k, 0, _START_BYTES), key)
        except ImageError:
            return False
        return start[128:132] == b"DICM" or start.startswith((JPEG_START, PNG_START))


def is_nameless(path: PurePosixPath) -> bool:
    """Say whether a name has no suffix, or one of digits, as the last part of a DICOM UID."""
    return path.suffix[1:].isdigit() or not path.suffix


def without_suffix(name: str) -> str:
    """Return a path without its suffix, if that is one."""
    path = PurePosixPath(name)
    return name if is_nameless(path) else str(path.with_suffix(""))
