"""The driver is killed, and Ray's head with it; the same command goes on."""

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.runs import STEPS, Outcome, Stage, begun, last_line, until_checkpoint

PATIENCE = 120.0
"""Seconds that a driver has to see that its head is gone; Ray gives it 60."""
BEGUN = re.compile(r"chaos: (recording|backtracking) from (\d+)")


def driver(stage: Stage) -> Iterator[Outcome]:
    """SIGKILL at random moments of both stages, one after the other in one run; and, but for the short form, with a head of its own."""
    found, folder, rng = Outcome("SIGKILL to the driver"), stage.new_folder(), random.Random(f"{stage.seed}/driver")
    for name, step in moments(rng, count=1 if stage.short else 4):
        ended = stage.command(stage.words(folder=folder, moment=f"{name}:{step}:{rng.uniform(0, 0.05):.3f}"))
        found.injected += ended.returncode == -signal.SIGKILL
        found.expect(ended.returncode == -signal.SIGKILL, f"it ended by itself: {last_line(ended.stderr)}")
        _count_again(found, ended.stderr)
        found.said.append(f"killed after {name} {step}")
    ended = stage.command(stage.words(folder=folder))
    _count_again(found, ended.stderr)
    found.expect(ended.returncode == 0, f"the same command afterwards: {last_line(ended.stderr)}")
    stage.judge(found, folder=folder)
    yield found
    if not stage.short:
        yield from _head(stage)


def moments(rng: random.Random, *, count: int) -> list[tuple[str, int]]:
    """So many, in the order in which they come up. A stage's last steps are left out: the run may be over before the kill comes."""
    every = [(name, step) for name, steps in STEPS.items() for step in range(1, steps - 15)]
    return sorted(rng.sample(every, count), key=every.index)


def _count_again(found: Outcome, said: str) -> None:
    """Steps between the checkpoint that the command began from and the last kill before it."""
    begun = BEGUN.findall(said)
    if found.said and begun:
        name, step = found.said[-1].split()[-2:]
        starts = {stage: int(start) for stage, start in begun}
        found.again += max(0, int(step) - starts.get(name, int(step)))


@dataclass
class Head:
    """A Ray that `ray start` begins here, in a folder of its own. process: the command, which stays; parts: what it began."""

    process: "subprocess.Popen[bytes]"
    address: str
    parts: list[psutil.Process] = field(default_factory=list)

    def kill(self) -> None:
        """What it began, and nothing else."""
        parts = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for part in [*parts, psutil.Process(self.process.pid)] if parts else []:
            with suppress(psutil.NoSuchProcess):
                part.kill()
        psutil.wait_procs(parts, timeout=30)
        self.process.wait(timeout=30)


@contextmanager
def head(folder: Path, *, host: str = "127.0.0.1", more: Sequence[str] = ()) -> Iterator[Head]:
    """more: words for `ray start`."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    words = [str(ray), "start", "--head", "--block", f"--node-ip-address={host}", f"--port={port}", "--num-cpus=4",
             "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}", *more]  # fmt: skip
    found = Head(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), f"{host}:{port}")
    try:
        _until_there(found)
        yield found
    finally:
        found.kill()


def _until_there(head: Head) -> None:
    """Until it has begun the machine's own part, the raylet, and answers."""
    host, _, port = head.address.rpartition(":")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        names = [part.name() for part in psutil.Process(head.process.pid).children(recursive=True)]
        with socket.socket() as probe:
            if "raylet" in names and probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("Ray's head didn't start")


def _head(stage: Stage) -> Iterator[Outcome]:
    """The head's processes are killed under a driver, which then ends, or is killed as well."""
    found, folder = Outcome("SIGKILL to Ray's head, and the driver with it"), stage.new_folder()
    homes = [stage.home / f"h{number}" for number in range(2)]
    with head(homes[0]) as first:
        words = stage.words(f"cluster.address={first.address}", folder=folder)
        with begun(words, stage.folder / "head.log") as ended:
            until_checkpoint(ended, folder)
            first.kill()
            found.injected += 1
            try:
                ended.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                found.said.append(f"the driver was still there after {PATIENCE:g} s, and was killed")
                ended.kill()
        found.said.append(f"the driver ended with {ended.returncode}: {last_line((stage.folder / 'head.log').read_text())}")
    with head(homes[1]) as second:
        again = stage.command(stage.words(f"cluster.address={second.address}", folder=folder))
        found.expect(again.returncode == 0, f"the same command afterwards: {last_line(again.stderr)}")
        stage.judge(found, folder=folder)
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)
    yield found
