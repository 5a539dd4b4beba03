"""Devices as timed waits, with real tensors through the real actors, schedule and object store: what orchestration costs.

A role's call takes as long as the work of its samples would, and hands on arrays of the real size. So a step can be held against the
busiest role's work, which no schedule can beat, on a machine with fewer processors than devices: waits take none.

    python -m benchmarks.emulated --json emulated.json

Processes for 64 devices need minutes to start on two processors, and 10 GB: `--devices 16` leaves them out, `--least 64` all else.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import ray

from benchmarks import Result, measured, options, publish
from benchmarks.emulated_roles import SAMPLES, FakeScore, Generator, Target, Work
from benchmarks.stage import Stage, staged
from disback_ray.actors.parts import Part
from disback_ray.actors.session import begin_private
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.path import switches
from disback_ray.config import RoleResources

WARM_STEPS, LARGE_STEPS = 3, 8
BARE_ACTORS, BARE_CALLS, BARE_ROUNDS = 5, 20, 20


@dataclass(frozen=True)
class Layout:
    """How many devices of each kind; scale: how many times SAMPLES a step has; parts: its micro-batches."""

    targets: int
    fakes: int
    generators: int
    parts: int
    scale: int = 1
    slower: float = 1.0

    @property
    def devices(self) -> int:
        return self.targets + self.fakes + self.generators

    @property
    def name(self) -> str:
        return f"{self.devices} devices: {self.targets} target, {self.fakes} fake, {self.generators} generator"


SMALL = (
    (Layout(1, 1, 1, parts=2), 0.96, 0.95),
    (Layout(1, 2, 1, parts=4), 0.95, 0.95),
    (Layout(1, 2, 2, parts=4), 0.93, 0.91),
)
LARGE = (Layout(4, 8, 4, parts=16, scale=4, slower=3.2), Layout(16, 32, 16, parts=32, scale=16, slower=3.2))
"""Four and sixteen times one target, two fake scores and one generator, with the work of each device kept: a step is about 1 s."""


def parts_of(layout: Layout, work: Work, megabytes: float) -> dict[str, Part]:
    made = {"work": work, "numbers": round(megabytes * 1e6 / 4 / SAMPLES)}
    return {"teacher": (Target, made), "fake_score": (FakeScore, made), "generator": (Generator, made)}


@dataclass(frozen=True)
class Cost:
    """Of a step, in seconds: how long it took, the busiest role's work, the driver's CPU, that of its own thread (the rest is Ray's).

    processors: the share of this machine's that was in use, by whatever runs on it; calls: that roles made in a step.
    """

    step: float
    work: float
    driver: float
    own: float
    processors: float
    calls: float


def cost(layout: Layout, *, megabytes: float, steps: int) -> Cost:
    """What steps cost on a layout. megabytes: of a batch of SAMPLES."""
    work = Work().times(layout.slower)
    roles = {
        "teacher": RoleResources(replicas=layout.targets, cpus=0.01, gpus=0),
        "fake_score": RoleResources(ranks=layout.fakes, cpus=0.01, gpus=0),
        "generator": RoleResources(ranks=layout.generators, cpus=0.01, gpus=0),
    }
    with staged(parts_of(layout, work, megabytes), roles) as stage:
        ends = driven(stage, layout, steps=steps)
        accounts, _ = stage.company.accounts()
        made = sum(total.calls for account in accounts.values() for total in account.totals.values())
    busiest = work.busiest(targets=layout.targets, fakes=layout.fakes, generators=layout.generators, scale=layout.scale)
    first, last, count = ends[0], ends[-1], len(ends) - 1
    return Cost(
        statistics.median(b.at - a.at for a, b in itertools.pairwise(ends)), busiest,
        (last.driver - first.driver) / count, (last.own - first.own) / count,
        1 - (last.idle - first.idle) / (last.at - first.at) / len(psutil.cpu_times(percpu=True)), made / (steps + WARM_STEPS),
    )  # fmt: skip


@dataclass(frozen=True)
class End:
    """Of a step: when it was, in seconds, and so far the driver's CPU, its own thread's, and what this machine's processors had idle."""

    at: float
    driver: float
    own: float
    idle: float

    @classmethod
    def now(cls) -> "End":
        times = psutil.cpu_times()
        return cls(time.monotonic(), time.process_time(), time.thread_time(), times.idle + getattr(times, "iowait", 0.0))


def driven(stage: Stage, layout: Layout, *, steps: int) -> list[End]:
    """The ends of each step after the first few."""
    plan = backtracking.distribution_backtracking(
        stage.cast, switches(0, 1, total=steps + WARM_STEPS), steps=steps + WARM_STEPS,
        batches_of=lambda name, step: [
            Batch(0, name, step, part * SAMPLES * layout.scale // layout.parts, SAMPLES * layout.scale // layout.parts)
            for part in range(layout.parts)
        ],
    )  # fmt: skip
    ends: list[End] = []
    stage.follow(plan, each=lambda: ends.append(End.now()))
    return ends[WARM_STEPS - 1 : -1]  # the last step has none ahead of it


@contextmanager
def pretended_processors(count: int) -> Iterator[None]:
    """A run's private Ray, but for the number of processors that it counts: enough for the devices to be emulated."""
    begin_private(num_cpus=count, object_store_memory=2_000_000_000)
    try:
        yield
    finally:
        ray.shutdown()


class Bare:
    """An actor that does nothing but hand on a micro-batch's tensor, as a call of Ray's and nothing of ours."""

    def call(self, before: Any) -> np.ndarray:
        time.sleep(0.01)
        return np.zeros(25_600, np.float32)


def bare_call() -> float:
    """The driver's CPU for one call of Ray's with another's result as its argument, in seconds: what Ray itself takes."""
    actors: list[Any] = [ray.remote(Bare).options(num_cpus=0.01).remote() for _ in range(BARE_ACTORS)]
    before = None
    spent = []
    for _ in range(BARE_ROUNDS):
        began, made = time.process_time(), []
        for number in range(BARE_CALLS):
            before = actors[number % BARE_ACTORS].call.remote(before)
            made.append(before)
        ray.wait(made, num_returns=BARE_CALLS, fetch_local=False)
        spent.append((time.process_time() - began) / BARE_CALLS)
    for actor in actors:
        ray.kill(actor)
    return statistics.median(spent)


def results_of(layout: Layout, goals: dict[float, float], *, steps: int, bare: float) -> list[Result]:
    found = []
    for megabytes, goal in goals.items():
        took = cost(layout, megabytes=megabytes, steps=steps)
        name = f"{layout.name}, {megabytes:g} MB"
        found.append(measured(f"busiest role's work over the step: {name}", took.work / took.step, "share", at_least=goal))
        found.append(measured(f"step: {name}", took.step, "s"))
        found.append(measured(f"the driver's own CPU: {name}", took.driver / took.step, "share of a step", at_most=0.05))
        found.append(
            measured(
                f"the same for each of {took.calls:.0f} calls: {name}", 1e3 * took.driver / took.calls, "ms", baseline=1e3 * bare
            )
        )
        found.append(measured(f"of which its own thread's: {name}", took.own / took.step, "share of a step"))
        found.append(measured(f"processors in use: {name}", took.processors, "share"))
    return found


def main() -> None:
    parser = options(str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=15, help="measured in each setting (15); of 16 devices and more at most 8")
    parser.add_argument("--devices", type=int, default=64, help="leave out what has more devices than this (64)")
    parser.add_argument("--least", type=int, default=0, help="leave out what has fewer devices than this (0)")
    given = parser.parse_args()
    results: list[Result] = []
    wanted = range(given.least, given.devices + 1)
    with pretended_processors(128):
        bare = bare_call()
        results.append(measured("the driver's own CPU for a call of Ray's without us", 1e3 * bare, "ms"))
        for layout, small, large in SMALL:
            if layout.devices in wanted:
                results += results_of(layout, {0.4: small, 6.4: large}, steps=given.steps, bare=bare)
        for layout in LARGE:
            if layout.devices in wanted:
                results += results_of(layout, {0.4: 0.90}, steps=min(given.steps, LARGE_STEPS), bare=bare)
    publish("emulated", results, file=given.json)


if __name__ == "__main__":
    main()
