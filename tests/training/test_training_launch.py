from pathlib import Path

import pytest

from sightline.training.launch import _loss

SILENT, ENDED = "did not answer for 12 s after step 8", "ended after step 8"


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        ({"0.silent": SILENT, "1.silent": SILENT}, f"the worker of rank 2 {SILENT} ("),
        # It was late only, and then met the end of the others.
        ({"0.silent": SILENT, "1.silent": SILENT, "2.ended": ENDED}, f"rank 2 {SILENT} ("),
        # Rank 0 waited for rank 2, and rank 1 then met the end of rank 0.
        ({"0.silent": SILENT, "1.ended": ENDED}, f"the worker of rank 2 {SILENT} ("),
        ({"0.silent": SILENT}, f"one of 3 workers {SILENT} ("),
        ({"0.ended": ENDED, "2.ended": ENDED}, f"the worker of rank 1 {ENDED}"),
        (
            {"0.ended": ENDED, "1.killed": "was killed by SIGSEGV"},
            "the worker of rank 1 was killed by SIGSEGV",
        ),
        ({"0.ended": ENDED, "1.lost": "no process answered"}, "no process answered"),
        ({}, None),
    ],
)
def test_the_worker_that_was_lost_is_named_where_the_others_words_leave_one(told, lost):
    files = [(Path(f"rank-{name}"), text) for name, text in told.items()]
    found = _loss(files, 3)
    assert found == lost if lost is None else lost in found
