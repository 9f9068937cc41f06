"""What the report says of the data, in words."""

from types import SimpleNamespace

import pytest

from sightline.report.facts import data_notes


@pytest.mark.parametrize(
    ("complete", "told"), [(True, "7 pairs of nearly equal"), (False, "At least 7 pairs of nearly")]
)
def test_near_copies_of_an_unfinished_search_are_at_least_so_many(complete, told):
    copies = {"near_across_splits": 7, "near_complete": complete}
    prepare = SimpleNamespace(metrics={"duplicates": copies})
    assert any(note.startswith(told) for note in data_notes(SimpleNamespace(prepare=prepare)))
