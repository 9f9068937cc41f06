import signal

import pytest

from sightline.training.preemption import noticed_sigterm

WISHES = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_restored():
    before = [(number, signal.getsignal(number)) for number in WISHES]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", WISHES)
@pytest.mark.parametrize("again", WISHES)
def test_a_signal_that_comes_again_changes_nothing_until_the_process_ends(number, again):
    passed_on = []
    with noticed_sigterm(lambda: passed_on.append("once")) as came:
        assert not came()
        signal.raise_signal(number)
        signal.raise_signal(again)
        assert came()
    signal.raise_signal(again)
    assert passed_on == ["once"]


def test_a_terminal_that_is_gone_is_no_wish_after_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with noticed_sigterm() as came:
        signal.raise_signal(signal.SIGHUP)
        assert not came()


@pytest.mark.parametrize("number", WISHES)
def test_a_signal_does_what_it_did_before_where_none_came(number):
    before = signal.getsignal(number)
    with noticed_sigterm():
        pass
    assert signal.getsignal(number) == before
