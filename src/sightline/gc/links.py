"""Links in a folder: what they lead to may be another's, so it is read and never removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sightline.errors import UserError
from sightline.storage import Storage
from sightline.storage.local import LocalStorage


@dataclass(frozen=True)
class Links:
    """Where the links below a root lead, by the links."""

    targets: Mapping[str, Path]

    def lead_to(self, path: Path) -> bool:
        """Say whether one leads to a place, into it, or to a folder that holds it."""
        return path in self._above or not self._places.isdisjoint((path, *path.parents))

    @cached_property
    def _places(self) -> frozenset[Path]:
        return frozenset(self.targets.values())

    @cached_property
    def _above(self) -> frozenset[Path]:
        return frozenset(parent for place in self._places for parent in place.parents)


def find_links(root: Storage, areas: Iterable[Storage]) -> Links:
    """Return the links below a root, but those that the areas themselves are; a bucket has none.

    Raises:
        UserError: If one below an area, or the area itself, leads nowhere: nobody knows what it
            would tell. If an area lies among those of another root, whose needs are not seen.
    """
    if not isinstance(root, LocalStorage):
        return Links({})
    own = [storage.root for storage in areas if isinstance(storage, LocalStorage)]
    for area in own:
        _require_own(area, own)
    below = (link for area in own for link in _walk_links(area))
    beside = (Path(item.path) for item in _entries(root.root) if item.is_symlink())
    beside = (path for path in beside if path not in own)
    return Links({str(link): link.resolve() for link in (*below, *beside)})


def link_check(storage: Storage) -> Callable[[str], bool]:
    """Return a check for the keys of files that a link inside an area leads to."""
    if not isinstance(storage, LocalStorage):
        return lambda _: False
    top = storage.root.resolve()
    known: dict[Path, bool] = {}

    def is_linked(key: str) -> bool:
        path = top / key
        folder = path.parent
        if folder not in known:
            known.clear()  # keys arrive folder by folder
            known[folder] = folder.resolve() != folder
        return known[folder] or path.is_symlink()

    return is_linked


def _require_own(area: Path, own: Iterable[Path]) -> None:
    _require_target(area)
    names = {folder.name for folder in own}
    real = {folder.resolve() for folder in own}
    place = area.resolve()
    others = [place.with_name(name) for name in sorted(names) if place.name in names]
    if other := next((path for path in others if path.is_dir() and path.resolve() not in real), ""):
        raise UserError(
            f"{area} leads to {place}, which is a part of another root: {other} lies beside it, "
            f"and what that needs is not seen from here. Give --root-uri {place.parent}"
        )


def _require_target(path: Path) -> None:
    if path.is_symlink() and not _exists(path):
        raise UserError(
            f"{path} is a link that leads nowhere now, so nobody knows what it needs: bring back "
            "what it leads to, or remove the link"
        )


def _walk_links(folder: Path) -> Iterator[Path]:
    for item in _entries(folder):
        path = Path(item.path)
        if item.is_symlink():
            _require_target(path)
            yield path
        elif item.is_dir():
            yield from _walk_links(path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder; one that has just gone holds nothing."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"cannot look at {path}: {error.strerror}") from None
