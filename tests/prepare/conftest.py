"""An empty catalogue for the tests of what goes into it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sightline.prepare.catalogue import Catalogue


@pytest.fixture
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Return a catalogue without files, in a folder of its own."""
    with Catalogue(tmp_path_factory.mktemp("catalogue")) as catalogue:
        yield catalogue
