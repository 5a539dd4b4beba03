"""Who does it: watches a run's steps, and kills roles' processes at moments that were drawn before."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray._private import state as typed_state

from benchmarks.chaos.runs import STEPS, SWITCHES
from disback_ray.progress import Silent

state: Any = typed_state  # it has no types

ROLES = ("fake_score", "generator", "teacher", "path_node", "evaluator")
MOMENTS = ("anywhere", "checkpoint", "switch", "recovery")


@dataclass(frozen=True)
class Fault:
    """SIGKILL of a role once so many steps of a stage are done. after: seconds later; again: and of whoever was put up in its place."""

    stage: str
    step: int
    role: str
    moment: str
    after: float
    again: bool = False


def faults(rng: random.Random, *, kills: int) -> list[Fault]:
    """So many for one run, in different steps, one of each kind of moment before the next of a kind."""
    found: list[Fault] = []
    while (left := kills - sum(1 + fault.again for fault in found)) > 0:
        moment = MOMENTS[len(found) % len(MOMENTS)]
        if moment == "recovery" and left < 2:
            moment = "anywhere"
        stage = rng.choice(list(STEPS))
        step = {
            "checkpoint": rng.randrange(10, STEPS[stage], 10), "switch": rng.choice(SWITCHES[stage]),
        }.get(moment, rng.randrange(1, STEPS[stage] - 3))  # fmt: skip
        if all((fault.stage, fault.step) != (stage, step) for fault in found):
            found.append(Fault(stage, step, rng.choice(ROLES), moment, rng.uniform(0, 0.02), again=moment == "recovery"))
    return found


class Saboteur(Silent):
    """Does to a run what the faults say. done: those that met a living process, one for each kill."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        self.done: list[Fault] = []
        self.name = ""
        self.threads: list[threading.Thread] = []
        self.ended = threading.Event()

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        self.name = name

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        for fault in [fault for fault in self.faults if (fault.stage, fault.step) == (self.name, done)]:
            self.faults.remove(fault)
            thread = threading.Thread(target=self.strike, args=(fault, process_of(fault.role)))
            thread.start()
            self.threads.append(thread)

    def strike(self, fault: Fault, pid: int | None) -> None:
        time.sleep(fault.after)
        if pid is None or not killed(pid):
            return
        self.done.append(fault)
        while fault.again and not self.ended.wait(0.05):  # as soon as there is another, while it is built or given its calls
            other = process_of(fault.role)
            if other not in (None, pid) and killed(other):
                self.done.append(fault)
                return

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


class Once(Silent):
    """Does one thing, once so many steps of a stage are done. told: what the run said."""

    def __init__(self, stage: str, step: int, act: Callable[[], object]) -> None:
        self.when, self.act = (stage, step), act
        self.name = ""
        self.done = 0
        self.told: list[str] = []

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        self.name = name

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        if not self.done and self.name == self.when[0] and done >= self.when[1]:
            self.done += 1
            self.act()

    def say(self, text: str) -> None:
        self.told.append(text)


def process_of(role: str, *, states: Sequence[str] = ("ALIVE",)) -> int | None:
    """The living process of a role, by Ray's own list of actors: the newest. states: those that count as living."""
    kind = {"fake_score": "FakeScore", "teacher": "FrozenTeacher", "path_node": "PathNode"}.get(role, role.capitalize())
    living = [a for a in state.actors().values() if a["ActorClassName"] == kind and a["State"] in states]
    return max(living, key=lambda actor: int(actor["StartTime"]))["Pid"] if living else None


def killed(pid: int | None) -> bool:
    """For kill(2), 0 is whoever asks, and all that were started with it."""
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
