"""Ctrl-C, and SIGTERM: a run that can stop at a good moment is asked to; anything else is interrupted at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATER = "stopping after this step, with all that is done kept; once more (Ctrl-C) to stop at once"
NOW = "stopping"


class Stop:
    """Whether somebody asked for a stop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """say: tells them at once that they were heard; called by the signal's handler, wherever that interrupts."""
        self._say = say
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
        can_wait = self._waits and not self._asked
        self._asked = True
        self._say(LATER if can_wait else NOW)
        if not can_wait:
            raise KeyboardInterrupt


@contextmanager
def interruptible(say: Callable[[str], None] = lambda text: None) -> Iterator[Stop]:
    """Signals go to the Stop until the block ends. say: see Stop."""
    stop = Stop(say)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
