"""A long run with a kill every so many steps: whether what it holds stays what it was."""

import random
import statistics
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import psutil
import ray as typed_ray
from ray._private import state as typed_state
from ray._private import worker as typed_worker

from benchmarks import Result, measured
from benchmarks.chaos.runs import Outcome, Stage, watched_by
from benchmarks.chaos.saboteur import ROLES, Fault, Saboteur, killed, process_of
from disback_ray.actors.session import attach

ray: Any = typed_ray  # half of it has no types
state: Any = typed_state
worker: Any = typed_worker

HEADS = "step, driver MB, largest role MB, object store MB, references, driver's files, its threads, actors, placement groups"


@dataclass
class Sample:
    """What a run holds at one moment: MB of the driver, of its largest role and in the object store, and the driver's other things."""

    step: int
    driver_mb: float
    roles_mb: float
    store_mb: float
    references: int
    files: int
    threads: int
    actors: int
    groups: int


class Watch(Saboteur):
    """Kills a role every so many steps, and looks each time at what the run holds just before."""

    def __init__(self, *, every: int, rng: random.Random) -> None:
        super().__init__([])
        self.every, self.rng = every, rng
        self.samples: list[Sample] = []

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        if self.name == "backtracking" and done % self.every == 0 and (not self.samples or self.samples[-1].step < done):
            self.samples.append(held(done))
            role = self.rng.choice(ROLES)
            if killed(process_of(role)):
                self.done.append(Fault(self.name, done, role, "anywhere", 0))


def held(step: int) -> Sample:
    driver = psutil.Process()
    mine = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
    references = len(worker.global_worker.core_worker.get_all_reference_counts())
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    return Sample(
        step, driver.memory_info().rss / 2**20, max((size_of(actor["Pid"]) for actor in mine), default=0.0), store_mb(), references,
        driver.num_fds(), driver.num_threads(), len(mine), len(groups),
    )  # fmt: skip


def store_mb() -> float:
    """The most that was ever in the object store, by the shared memory that Ray's process for this machine has touched."""
    raylets = [process for process in psutil.Process().children(recursive=True) if process.name() == "raylet"]
    return sum(float(process.memory_info().shared) for process in raylets) / 2**20


def size_of(pid: int) -> float:
    """MB of a process; none where it has just gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0


def long(steps: int) -> list[str]:
    return [f"backtracking.steps={steps}", "checkpoint_every=100", f"evaluation.every={max(steps // 10, 1)}"]


def marathon(stage: Stage) -> Iterator[Outcome | Result | str]:
    """A run of so many steps with a kill every so many."""
    steps, every = stage.steps, 500 if stage.steps >= 5000 else 100
    truth = stage.truth_of(*long(steps))
    watch, folder = Watch(every=every, rng=random.Random(stage.seed)), stage.new_folder()
    with attach("local"):
        with watched_by(watch):
            found = stage.run(*long(steps), folder=folder)
        left = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    seconds = [event["seconds"] for event in found.summary["recoveries"]]
    yield Outcome(
        f"SIGKILL every {every} of {steps} steps", len(watch.done), 1, int(found.digest == truth), seconds=seconds,
        failures=[] if found.digest == truth else ["the long run ended with other weights"],
    )  # fmt: skip
    samples = watch.samples
    first, last = samples[len(samples) // 4], samples[-1]
    yield measured(
        "long run: driver's memory, end against a quarter", last.driver_mb, "MB", baseline=first.driver_mb, at_most=1.1
    )
    yield measured("long run: largest role's memory", last.roles_mb, "MB", baseline=first.roles_mb, at_most=1.1)
    yield measured("long run: object store", last.store_mb, "MB", baseline=first.store_mb, at_most=1.1)
    yield measured("long run: references to objects", last.references, "", baseline=first.references, at_most=1.5)
    yield measured("long run: driver's open files", last.files, "", baseline=first.files, at_most=1.1)
    yield measured("long run: driver's threads", last.threads, "", baseline=first.threads, at_most=1.1)
    yield measured("long run: actors alive", max(sample.actors for sample in samples), "", at_most=len(ROLES))
    yield measured("long run: placement groups", max(sample.groups for sample in samples), "", at_most=1)
    half = list(folder.rglob("*.partial"))
    yield measured("long run: actors, groups and half-written files left", len(left) + len(groups) + len(half), "", at_most=0)
    yield measured("long run: median recovery", statistics.median(seconds or [0.0]), "s")
    yield f"{HEADS}: {[[round(number) for number in astuple(sample)] for sample in samples]}"
