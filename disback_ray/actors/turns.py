"""A role's own thread, which makes its calls in their turns, in whatever order they come. Knows no Ray.

So the arguments of the next calls are fetched, and what the last ones gave is stored, while one is made.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any

Work = Callable[[], Any]


class OutOfTurn(Exception):
    """A call came whose predecessor was not made: what that one waited for was lost. Nothing has been changed."""


class Turns:
    """turn: the one that is made next, or is being made."""

    def __init__(self) -> None:
        self.turn = 0
        self._calls: dict[int, tuple[Work, Future[Any]]] = {}
        self._between: deque[tuple[Work, Future[Any]]] = deque()
        self._changed = Condition()
        Thread(target=self._make_all, name="role", daemon=True).start()

    def make(self, turn: int, work: Work) -> Future[Any]:
        """Later: what the work gives, or raises, once its turn has come; OutOfTurn where that is over, or dismiss() says so."""
        later: Future[Any] = Future()
        with self._changed:
            if turn < self.turn or turn in self._calls:
                later.set_exception(OutOfTurn(f"turn {turn} has been taken: the next one is {self.turn}"))
            else:
                self._calls[turn] = work, later
                self._changed.notify()
        return later

    def between(self, work: Work) -> Future[Any]:
        """Later: what the work gives. It has no turn, and is made as soon as no call is being made."""
        later: Future[Any] = Future()
        with self._changed:
            self._between.append((work, later))
            self._changed.notify()
        return later

    def dismiss(self, *, after: int) -> None:
        """Calls that wait for a turn beyond `after` wait no more: that one will not be made."""
        with self._changed:
            gone = [self._calls.pop(turn)[1] for turn in sorted(self._calls) if turn > after]
        for later in gone:
            later.set_exception(OutOfTurn(f"turn {after} was not made"))

    def begin(self) -> None:
        """Turns are counted from 0 again, as those of a new role."""
        with self._changed:
            self.turn = 0

    def _make_all(self) -> None:
        while True:
            self._make_next()

    def _make_next(self) -> None:  # what it made is not kept alive until the next call
        with self._changed:
            self._changed.wait_for(lambda: self._between or self.turn in self._calls)
            takes_turn = not self._between
            work, later = self._calls.pop(self.turn) if takes_turn else self._between.popleft()
        try:
            made = work()
        except BaseException as error:  # whoever waits for it is to meet it, whatever it is
            self._pass(takes_turn)
            later.set_exception(error)
        else:
            self._pass(takes_turn)
            later.set_result(made)

    def _pass(self, takes_turn: bool) -> None:
        if takes_turn:
            with self._changed:
                self.turn += 1
