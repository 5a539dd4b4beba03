"""The run that things are done to: ring8, cut down; and what became of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from disback_ray import run, running
from disback_ray.config import load_recipe
from disback_ray.progress import Silent
from disback_ray.result import RunResult
from disback_ray.run_folder import SUMMARY, Metrics
from disback_ray.storage import Folder

TINY = """
    teacher.network.width=16 teacher.network.blocks=1 teacher.training.steps=250 teacher.training.batch=32 teacher.sampling_steps=3
    student.network.width=16 student.network.hidden_layers=1 student.ema=0.9 batch=32
    recording.steps=24 recording.at=[6,15,24] backtracking.steps=60 backtracking.steps_per_node=20
    evaluation.every=30 evaluation.samples=100 evaluation.pictures=10 checkpoint_every=10
"""
"""Both stages, three nodes, and a checkpoint every ten steps."""
STEPS = {"recording": 24, "backtracking": 60}
SWITCHES = {"recording": (6, 15), "backtracking": (20, 40)}
LONGEST = 600.0
"""Seconds that a command may take."""


@dataclass
class Outcome:
    """What one kind of fault did. injected: times; runs: that it was done to; survived: ended with the same weights.

    lost_steps: missing from the metrics; again: steps made a second time, since the last checkpoint; seconds: of each recovery.
    skipped: why it couldn't be tried; failures: what went wrong; said: lines of the run that are worth to be read.
    """

    fault: str
    injected: int = 0
    runs: int = 0
    survived: int = 0
    lost_steps: int = 0
    again: int = 0
    seconds: list[float] = field(default_factory=list)
    skipped: str = ""
    failures: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def expect(self, fine: object, otherwise: str) -> None:
        """One more failure, unless all is as it should be."""
        if not fine:
            self.failures.append(f"{self.fault}: {otherwise}")


@dataclass
class Stage:
    """Where runs lie, and what the undisturbed one came to. short: for CI; seed: of all that is drawn; kills: so many in all."""

    folder: Path
    short: bool = False
    seed: int = 0
    minutes: float = 600.0
    kills: int = 100
    steps: int = 10_000
    count: int = 0

    @property
    def home(self) -> Path:
        """Where Ray's processes that this command begins keep their things."""
        return Path(os.environ["RAY_TMPDIR"])

    @cached_property
    def truth(self) -> str:
        return self.truth_of()

    def truth_of(self, *more: str, folder: Path | None = None) -> str:
        """The digest of the run that nothing happens to, with these settings over the others."""
        return str(self.run(*more, folder=folder or self.new_folder(), in_process=True).digest)

    def run(self, *more: str, folder: Path, in_process: bool = False) -> RunResult:
        return run("ring8", out=folder, overrides=self.settings(*more), seed=0, in_process=in_process)

    def settings(self, *more: str) -> list[str]:
        trainer = "cluster.roles.teacher_trainer={cpus: 1, gpus: 0}"
        return [*TINY.split(), f"cluster.storage={self.folder}", trainer, "cluster.recovery.losses=100", *more]

    def new_folder(self) -> Path:
        self.count += 1
        return self.folder / f"run-{self.count}"

    def play(
        self, outcome: Outcome, *more: str, watch: Silent | None = None, folder: Path | None = None, truth: str = ""
    ) -> Mapping[str, Any]:
        """One run over actors, watched, and compared; → its summary, none where it failed. truth: by default the plain one's."""
        truth, folder = truth or self.truth, folder or self.new_folder()
        try:
            with watched_by(watch or Silent()):
                self.run(*more, folder=folder)
        except Exception as error:
            outcome.runs += 1
            outcome.expect(False, f"{type(error).__name__}: {str(error)[:300]}")
            return {}
        return self.judge(outcome, *more, folder=folder, truth=truth)

    def words(self, *more: str, folder: Path, moment: str = "-") -> list[str]:
        """The same run as a command. moment: see command.py."""
        sets = [word for setting in self.settings(*more) for word in ("--set", setting)]
        return [sys.executable, "-m", "benchmarks.chaos.command", moment, "run", "ring8", "--out", str(folder), *sets]

    def command(self, words: Sequence[str], **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=LONGEST, env={**os.environ, **variables}
        )  # fmt: skip

    def judge(self, outcome: Outcome, *more: str, folder: Path, truth: str = "") -> Mapping[str, Any]:
        """Counts a run that has ended, by what it left; → its summary."""
        outcome.runs += 1
        left: dict[str, Any] = json.loads((folder / SUMMARY).read_text("utf-8")) if (folder / SUMMARY).exists() else {}
        same = left.get("status") == "complete" and left["digest"] == (truth or self.truth)
        outcome.survived += same
        outcome.expect(same, f"it ended {left.get('status', 'without a summary')}, with other weights: {left.get('error')}")
        outcome.seconds += [event["seconds"] for event in left.get("recoveries", [])]
        settings = load_recipe("ring8", overrides=[o for o in self.settings(*more) if not o.startswith("cluster.")])
        rows = Metrics(Folder.at(folder)).rows
        outcome.lost_steps += settings.recording.steps + settings.backtracking.steps - len(rows)
        return left


@contextmanager
def watched_by(watch: Silent) -> Iterator[None]:
    before = vars(running)["Silent"]
    vars(running)["Silent"] = lambda: watch
    try:
        yield
    finally:
        vars(running)["Silent"] = before


@contextmanager
def begun(words: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A command, while something is done to it; → its process, which is ended with the block. log: what it says on stderr."""
    with log.open("w") as sink:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=sink)
        try:
            yield process
        finally:
            process.kill()  # nothing, where it has ended
            process.wait()


def until_checkpoint(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until there is one of the second stage. Raises TimeoutError."""
    end = time.monotonic() + LONGEST
    while not list(folder.glob("checkpoints/backtracking-*/manifest.json")):
        if process.poll() is not None or time.monotonic() > end:
            raise TimeoutError("the run came to no checkpoint")
        time.sleep(0.02)


def last_line(said: str) -> str:
    """Of what a command wrote; the benchmark's own lines are none of its."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("chaos: ")]
    return lines[-1] if lines else ""
