"""Ctrl-C, and SIGTERM: a run that can stop at a good moment is asked to; anything else is interrupted at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether somebody asked for a stop."""

    def __init__(self) -> None:
        self._asked = False
        self._waits = False

    def is_set(self) -> bool:
        return self._asked

    @contextmanager
    def at_a_good_moment(self) -> Iterator[None]:
        """The block looks at is_set() by itself: the first Ctrl-C in it only asks, the second one interrupts."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def ask(self, number: int, frame: Any) -> None:
        """The signals' handler. Raises KeyboardInterrupt unless the stop can wait."""
        if self._asked or not self._waits:
            self._asked = True
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Signals go to the Stop until the block ends; where Python lets us have them, in the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
