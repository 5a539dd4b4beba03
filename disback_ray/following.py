"""Follows steps that are submitted ahead of their results, and keeps count of what is due between them."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from disback_ray.actors.company import Company
from disback_ray.actors.timesheet import Timesheet
from disback_ray.algorithms.cast import Step
from disback_ray.errors import NonFiniteError
from disback_ray.interruption import Stop
from disback_ray.progress import Watcher
from disback_ray.run_folder import Metrics

AHEAD = 1
"""So many steps are submitted before the last one's results are waited for: every device has its next work, and none is stale."""
MOST_ASIDES, OF_A_LOOK = 8, 3
"""So much that was asked for aside may be out before a step waits for it; so much of it at most is one look's."""


@dataclass(frozen=True)
class Aside:
    """Something that was asked for after so many steps; `then` takes what it gives, when it is there and those are in the metrics."""

    later: Any
    then: Callable[[Any], None]
    submitted: int


class Follower:
    """Submits steps, waits for them one behind, and hands their numbers on."""

    def __init__(self, company: Company, metrics: Metrics, watch: Watcher, *, stop: Stop, trace: bool = False) -> None:
        self.company = company
        self.metrics = metrics
        self.watch = watch
        self.stop = stop
        self.asides: deque[Aside] = deque()
        self.beside: deque[Aside] = deque()  # that have nothing to do with the evaluator
        self.sheet = Timesheet(trace)
        self.submitted = self.settled = 0
        self.last: Step | None = None
        self.began = time.monotonic() - metrics.seconds

    def follow(self, steps: Iterator[Step], *, after: Callable[[Step], None]) -> Step | None:
        """Plays the steps; `after` is called once each is submitted, to ask for more between it and the next.

        Returns the last step submitted, None if there was none; stops early, between two steps, when asked to.
        Raises what a role raised.
        """
        with self.stop.at_a_good_moment():
            return self._follow(steps, after)

    def _follow(self, steps: Iterator[Step], after: Callable[[Step], None]) -> Step | None:
        pending: deque[Step] = deque()
        last = None
        while not self.stop.is_set():
            with self.sheet.call("submit", [self.submitted]):
                step = next(steps, None)
            if step is None:
                break
            last = step
            self.submitted += 1
            after(step)
            pending.append(step)
            if len(pending) > AHEAD:
                self._settle(pending.popleft())
            self._gather(self.beside, most=MOST_ASIDES)
            self._gather(self.asides, most=MOST_ASIDES)
        while pending:
            self._settle(pending.popleft())
        self.finish()
        return last

    @property
    def behind(self) -> bool:
        """Whether what was asked for and hasn't come is so much that a step would have to wait for it if more were asked."""
        return len(self.asides) > MOST_ASIDES - OF_A_LOOK

    def finish(self) -> None:
        """Waits for all that was asked for."""
        self._gather(self.beside, most=0)
        self._gather(self.asides, most=0)

    def give_up(self) -> None:
        """Waits for what was asked for before the steps went wrong, a checkpoint maybe, and forgets the rest."""
        with contextlib.suppress(NonFiniteError):
            self.finish()
        self.asides.clear()
        self.beside.clear()
        self.submitted = self.settled

    def ask(self, later: Any, then: Callable[[Any], None] = lambda value: None, *, apart: bool = False) -> None:
        """Leaves something to be waited for in passing, after what was asked for before.

        apart: after such things alone, whatever the evaluator is at.
        """
        (self.beside if apart else self.asides).append(Aside(later, then, self.submitted))

    def _settle(self, step: Step) -> None:
        numbers: dict[str, float] = {}
        with self.sheet.call("wait", [step.step]):
            results = self.company.wait(step.results)
        for result in results:
            for part in result if isinstance(result, list) else [result]:
                numbers |= part
        done = step.step + 1
        self.settled += 1
        self.last = step
        self.metrics.add(
            {"stage": step.stage, "step": done, "node": step.node, "seconds": time.monotonic() - self.began, **numbers}
        )
        self.watch.step(done, node=step.node, numbers=numbers)

    def _gather(self, asides: deque[Aside], *, most: int) -> None:
        """Takes what has come, in the order in which it was asked for; waits while more than `most` are out."""
        while asides and asides[0].submitted <= self.settled:
            if len(asides) <= most and not self.company.is_ready(asides[0].later):
                break
            aside = asides.popleft()
            aside.then(self.company.wait(aside.later))
