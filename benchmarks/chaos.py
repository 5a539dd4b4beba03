"""Chaos: roles killed at random moments, over and over; does every run end with the weights of the one that nothing happened to?

`python -m benchmarks.chaos --json FILE`; `--short` takes three minutes at most. See docs/reliability.md.
"""

import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray as typed_ray
from ray._private import state as typed_state
from ray._private import worker as typed_worker

from benchmarks import Result, measured, options, publish
from disback_ray import pictures, run, running
from disback_ray.actors.session import attach
from disback_ray.progress import Silent
from disback_ray.run_folder import Metrics

ray: Any = typed_ray  # half of it has no types
state: Any = typed_state
worker: Any = typed_worker

TINY = """
    teacher.network.width=16 teacher.network.blocks=1 teacher.training.steps=250 teacher.training.batch=32 teacher.sampling_steps=3
    student.network.width=16 student.network.hidden_layers=1 student.ema=0.9 batch=32
    recording.steps=24 recording.at=[6,15,24] backtracking.steps=60 backtracking.steps_per_node=20
    evaluation.every=30 evaluation.samples=100 evaluation.pictures=10 checkpoint_every=10
"""
"""ring8, cut down: both stages, three nodes, and a checkpoint every ten steps."""
STEPS = {"recording": 24, "backtracking": 60}
SWITCHES = {"recording": (6, 15), "backtracking": (20, 40)}
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
    """Watches a run, and does to it what the faults say."""

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
        while fault.again and not self.ended.wait(
            0.05
        ):  # as soon as there is another process, while it is built or given its calls
            other = process_of(fault.role)
            if other not in (None, pid) and killed(other):
                self.done.append(fault)
                return

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def process_of(role: str) -> int | None:
    """The living process of a role, by Ray's own list of actors: the newest."""
    kind = {"fake_score": "FakeScore", "teacher": "FrozenTeacher", "path_node": "PathNode"}.get(role, role.capitalize())
    living = [a for a in state.actors().values() if a["ActorClassName"] == kind and a["State"] == "ALIVE"]
    return max(living, key=lambda actor: int(actor["StartTime"]))["Pid"] if living else None


def killed(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Tally:
    """What was done to the runs, and what became of them."""

    injected: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    survived: int = 0
    lost_steps: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def storm(tally: Tally, folder: Path, *, kills: int, seed: int, truth: str) -> None:
    """One run with so many kills."""
    saboteur = Saboteur(faults(random.Random(seed), kills=kills))
    vars(running)["Silent"] = lambda: saboteur
    tally.runs += 1
    try:
        found = run("ring8", out=folder / f"run-{seed}", overrides=settings(folder), seed=0)
        right = found.digest == truth
        tally.survived += right
        tally.failures += [] if right else [f"seed {seed}: another digest"]
        tally.seconds += [event["seconds"] for event in found.summary["recoveries"]]
        tally.lost_steps += sum(STEPS.values()) - len(Metrics(found.folder).rows)
    except Exception as error:
        tally.failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    finally:
        saboteur.end()
    for fault in saboteur.done:
        tally.injected[fault.moment] = tally.injected.get(fault.moment, 0) + 1


def settings(folder: Path, *more: str) -> list[str]:
    return [*TINY.split(), f"cluster.storage={folder}", "cluster.roles.teacher_trainer={cpus: 1, gpus: 0}",
            "cluster.recovery.losses=100", *more]  # fmt: skip


# -- a long run --


@dataclass
class Sample:
    """What a run holds at one moment: MB of the driver and of its largest role, references to objects, the driver's files and threads."""

    step: int
    driver_mb: float
    roles_mb: float
    references: int
    files: int
    threads: int
    actors: int
    groups: int


class Marathon(Saboteur):
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
    sizes = [size_of(actor["Pid"]) for actor in mine]
    references = len(worker.global_worker.core_worker.get_all_reference_counts())
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    return Sample(
        step, driver.memory_info().rss / 2**20, max(sizes, default=0.0), references,
        driver.num_fds(), driver.num_threads(), len(mine), len(groups),
    )  # fmt: skip


def size_of(pid: int) -> float:
    """MB of a process; none where it has just gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss / 2**20)
    except psutil.NoSuchProcess:
        return 0.0


def marathon(folder: Path, *, steps: int, every: int, seed: int) -> tuple[Marathon, str, list[float]]:
    """A run of so many steps with a kill every so many; → what was seen, the digest, the recoveries' seconds."""
    watch = Marathon(every=every, rng=random.Random(seed))
    vars(running)["Silent"] = lambda: watch
    found = run("ring8", out=folder / "marathon", overrides=long(folder, steps))
    return watch, found.digest, [event["seconds"] for event in found.summary["recoveries"]]


def long(folder: Path, steps: int) -> list[str]:
    return settings(folder, f"backtracking.steps={steps}", "checkpoint_every=100", f"evaluation.every={max(steps // 10, 1)}")


# -- the table --


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--short", action="store_true", help="a few kills and a short long run, for CI")
    parser.add_argument("--kills", type=int, help="in all (default 100; short: 8)")
    parser.add_argument("--steps", type=int, help="of the long run (default 10000; short: 300; 0: none)")
    parser.add_argument("--minutes", type=float, default=600, help="begin no further run with kills after so many")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    kills = asked.kills if asked.kills is not None else 8 if asked.short else 100
    steps = asked.steps if asked.steps is not None else 300 if asked.short else 10_000
    pictures._png = lambda figure: b"\x89PNG"  # drawing them takes longer than all else
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = run("ring8", out=folder / "truth", overrides=settings(folder), in_process=True).digest
        with attach("local"):
            results, facts = list[Result](), dict[str, Any]()
            if kills:
                results, facts = storms(folder, kills=kills, minutes=asked.minutes, seed=asked.seed, truth=truth)
            if steps:
                more, table = long_run(folder, steps=steps, every=500 if steps >= 5000 else 100, seed=asked.seed)
                results += more
                facts["long run"] = table
        publish("chaos", results, file=asked.json, **facts)
    return 0 if all(result.met is not False for result in results) else 1


def storms(folder: Path, *, kills: int, minutes: float, seed: int, truth: str) -> tuple[list[Result], dict[str, Any]]:
    tally, number, end = Tally(), 0, time.monotonic() + 60 * minutes
    while (done := sum(tally.injected.values())) < kills and number < kills and time.monotonic() < end:
        storm(tally, folder, kills=min(6, kills - done), seed=1000 * seed + number, truth=truth)
        number += 1
        print(
            f"{sum(tally.injected.values())} kills in {tally.runs} runs, {tally.survived} survived", file=sys.stderr, flush=True
        )
    results = [
        measured("faults injected", sum(tally.injected.values()), "kills", at_least=kills),
        measured("runs that ended with the same weights", tally.survived, "runs", baseline=tally.runs, at_least=1.0),
        measured("steps lost", tally.lost_steps, "steps", at_most=0),
        measured("median recovery", statistics.median(tally.seconds or [0.0]), "s"),
        measured("slowest recovery", max(tally.seconds, default=0.0), "s"),
    ]
    return results, {"kills by moment": tally.injected, "failures": tally.failures or "none"}


def long_run(folder: Path, *, steps: int, every: int, seed: int) -> tuple[list[Result], str]:
    truth = run("ring8", out=folder / "long-truth", overrides=long(folder, steps), in_process=True).digest
    watch, digest, seconds = marathon(folder, steps=steps, every=every, seed=seed)
    samples = watch.samples
    first, last = samples[len(samples) // 4], samples[-1]
    left = [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    partial = list((folder / "marathon").rglob("*.partial"))
    results = [
        measured(f"long run: kills in {steps} steps", len(watch.done), "kills"),
        measured("long run: the same weights", float(digest == truth), "", at_least=1),
        measured("long run: median recovery", statistics.median(seconds or [0.0]), "s"),
        measured(
            "driver's memory, end against a quarter of the way", last.driver_mb, "MB", baseline=first.driver_mb, at_most=1.1
        ),
        measured("largest role's memory", last.roles_mb, "MB", baseline=first.roles_mb, at_most=1.1),
        measured("driver's references to objects", last.references, "", baseline=first.references, at_most=1.5),
        measured("driver's open files", last.files, "", baseline=first.files, at_most=1.1),
        measured("driver's threads", last.threads, "", baseline=first.threads, at_most=1.1),
        measured("actors alive in the run", max(sample.actors for sample in samples), "", at_most=len(ROLES)),
        measured("placement groups in the run", max(sample.groups for sample in samples), "", at_most=1),
        measured("actors, groups and half-written files left", len(left) + len(groups) + len(partial), "", at_most=0),
    ]
    table = [
        [s.step, round(s.driver_mb), round(s.roles_mb), s.references, s.files, s.threads, s.actors, s.groups] for s in samples
    ]
    heads = "step, driver MB, largest role MB, references, driver's files, threads, actors, placement groups"
    return results, f"{heads}: {table}"


if __name__ == "__main__":
    sys.exit(main())
