"""What rank 0 does alone, while the others wait."""

import itertools
import time
from functools import partial

from two_processes import run_in_two_processes

from sightline.training import distributed


def what_rank_0_does_until_rank_1_has_heard_of_it_three_times(folder, rank):
    heard = folder / "heard"
    any_of, times = distributed.any_of, itertools.count(1)

    def counted(flags):
        found = any_of(flags)
        if next(times) == 3 and rank == 1:
            heard.touch()
        return found

    def work():
        deadline = time.monotonic() + 20
        while not heard.exists():
            assert time.monotonic() < deadline, "rank 1 hears nothing"
            time.sleep(0.01)
        return "done"

    distributed.any_of = counted
    return distributed.from_main(work)


def test_the_others_hear_that_rank_0_works_however_long_it_does(tmp_path):
    work = partial(what_rank_0_does_until_rank_1_has_heard_of_it_three_times, tmp_path)
    assert run_in_two_processes(work, tmp_path) == ["done", "done"]
