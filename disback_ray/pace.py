"""How fast a stage goes, and when it will be done."""

import time

ENOUGH_STEPS, ENOUGH_SECONDS = 3, 2.0
"""Before so many steps and seconds have passed, a rate says more about the start than about the stage."""


class Pace:
    """A stage's steps against the clock. What goes before its first step, such as starting workers, is no part of its rate."""

    def __init__(self, *, steps: int | None, start: int) -> None:
        """steps: of the whole stage, None where they can't be counted; start: those that are done already."""
        self.steps = steps
        self.first = self.done = start
        self.stage_began = time.monotonic()
        self.began = self.seen = 0.0

    def step(self, done: int) -> None:
        """So many steps are done by now."""
        self.seen = time.monotonic()
        if not self.began and done > self.first:
            self.began, self.first = self.seen, done
        self.done = done

    @property
    def rate(self) -> float | None:
        """Steps a second; None before enough of them."""
        steps, seconds = self.done - self.first, self.seen - self.began
        return steps / seconds if steps >= ENOUGH_STEPS and seconds >= ENOUGH_SECONDS else None

    @property
    def left(self) -> float | None:
        """Seconds to the stage's end; None before there is a rate."""
        return (self.steps - self.done) / self.rate if self.steps is not None and self.rate else None

    @property
    def passed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.stage_began


def clock(seconds: float) -> str:
    """Such as 0:42, or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
