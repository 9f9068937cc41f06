import signal

import pytest

from sightline.training.preemption import noticed_sigterm


@pytest.fixture(autouse=True)
def _handlers_restored():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_sigterm_that_comes_again_changes_nothing_until_the_process_ends():
    passed_on = []
    with noticed_sigterm(lambda: passed_on.append("once")) as came:
        assert not came()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert came()
    signal.raise_signal(signal.SIGTERM)
    assert passed_on == ["once"]


def test_sigterm_does_what_it_did_before_where_none_came():
    before = signal.getsignal(signal.SIGTERM)
    with noticed_sigterm():
        pass
    assert signal.getsignal(signal.SIGTERM) == before
