"""Ctrl-C and SIGTERM: once to ask for a stop, twice to have it at once; where nothing looks for it, at once."""

import signal

import pytest

from disback_ray.interruption import LATER, NOW, SIGNALS, interruptible


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    heard: list[str] = []
    with interruptible(heard.append) as stop:
        with stop.at_a_good_moment():
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
            assert heard == [LATER]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert heard == [LATER, NOW]
        assert stop.is_set(), "whoever looks later sees it as well"


def test_where_nobody_looks_for_it_the_first_interrupts() -> None:
    heard: list[str] = []
    with interruptible(heard.append) as stop:
        with stop.at_a_good_moment():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == [NOW]
    assert stop.is_set()


def test_the_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruptible():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
