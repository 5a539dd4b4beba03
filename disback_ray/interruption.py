"""Ctrl-C, and SIGTERM: a run that can stop at a good moment is asked to; anything else is interrupted at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked for a stop."""

    def __init__(self) -> None:
        self._asked = False
        self._waits = False

    def is_set(self) -> bool:
        return self._asked

    def listen(self) -> None:
        """Takes the signals, where Python lets us have them: in the main thread. Again after ray.init, which takes SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._ask)

    @contextmanager
    def at_a_good_moment(self) -> Iterator[None]:
        """The block looks at is_set() by itself: the first Ctrl-C in it only asks, the second one interrupts."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _ask(self, number: int, frame: Any) -> None:
        """The signals' handler. Raises KeyboardInterrupt unless the stop can wait."""
        if self._asked or not self._waits:
            self._asked = True
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Signals go to the Stop until the block ends."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
