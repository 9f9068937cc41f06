"""Links in a folder: nobody knows what they are for, so none may lie where things are removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sightline.errors import UserError
from sightline.storage import Storage
from sightline.storage.local import LocalStorage


def refuse_links(areas: Iterable[Storage]) -> None:
    """Refuse links below the areas of a root; a bucket has none.

    An area may itself be a link, as to another disk.

    Raises:
        UserError: If one lies there: what it leads to may be needed through it, or another's. If an
            area leads nowhere, so that nobody knows what it needs, or lies among those of another
            root, whose needs are not seen.
    """
    own = [storage.root for storage in areas if isinstance(storage, LocalStorage)]
    for area in own:
        _require_own(area, own)
        for link in _walk_links(area):
            raise UserError(
                f"{link} is a link, and nobody knows what is needed through it: move what it leads "
                "to into its place, or remove the link"
            )


def _require_own(area: Path, own: Iterable[Path]) -> None:
    if area.is_symlink() and not area.is_dir():
        raise UserError(
            f"{area} is a link that leads to no folder now, so nobody knows what lies there: bring "
            "back what it leads to, or remove the link"
        )
    place, real = area.resolve(), {folder.resolve() for folder in own}
    names = {folder.name for folder in own}
    beside = [place.with_name(name) for name in sorted(names) if place.name in names]
    if other := next((path for path in beside if path.is_dir() and path.resolve() not in real), ""):
        raise UserError(
            f"{area} leads to {place}, which is a part of another root: {other} lies beside it, "
            f"and what that needs is not seen from here. Give --root-uri {place.parent}"
        )


def _walk_links(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_symlink():
                    yield Path(item.path)
                elif item.is_dir():
                    yield from _walk_links(Path(item.path))
    except (FileNotFoundError, NotADirectoryError):  # it has just gone
        return
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from None
