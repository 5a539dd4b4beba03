"""Machines in network namespaces, with a link between them that is cut, and restored: on Linux, as root."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import ray as typed_ray

from benchmarks.chaos.driver import Head, head
from benchmarks.chaos.node import BOUND
from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import Once

NEAR, FAR = "10.213.7.1", "10.213.7.2"
BLINK = 2.0
"""Seconds of a cut that nobody has to notice: TCP sends again what was lost."""
QUICK = {"period_ms": "1000", "timeout_ms": "1000", "failure_threshold": "4", "initial_delay_ms": "1000"}
"""Of Ray's own health checks: it gives a machine up after some 5 s of silence, and not after a minute."""


@dataclass
class Link:
    """A cable to another machine, which is a network namespace here: a pair of virtual Ethernet devices."""

    name: str = field(default_factory=lambda: f"chaos{os.getpid() % 100000}")

    @property
    def ours(self) -> str:
        return f"{self.name}n"

    def lay(self) -> None:
        """Raises CalledProcessError where one may not."""
        theirs = f"{self.name}f"
        _ip("netns", "add", self.name)
        _ip("link", "add", self.ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
        _ip("address", "add", f"{NEAR}/24", "dev", self.ours)
        _ip("link", "set", self.ours, "up")
        _ip("-n", self.name, "address", "add", f"{FAR}/24", "dev", theirs)
        _ip("-n", self.name, "link", "set", theirs, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def cut(self) -> None:
        _ip("link", "set", self.ours, "down")

    def restore(self) -> None:
        _ip("link", "set", self.ours, "up")

    def remove(self) -> None:
        for words in (("link", "del", self.ours), ("netns", "del", self.name)):
            with suppress(subprocess.CalledProcessError):
                _ip(*words)


class Far:
    """The machine at the other end: pretended GPUs for the two roles that want its kind."""

    def __init__(self, link: Link, address: str) -> None:
        self.link, self.address = link, address
        self.begin()

    def begin(self) -> None:
        ray = Path(sys.executable).with_name("ray")
        words = ["ip", "netns", "exec", self.link.name, str(ray), "start", f"--address={self.address}", "--block",
                 f"--node-ip-address={FAR}", "--num-cpus=4", "--num-gpus=4", "--labels=ray.io/accelerator-type=A10G",
                 "--disable-usage-stats"]  # fmt: skip
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        """All that it began. A raylet that hears that it was given up ends by itself; this doesn't wait for that."""
        Head(self.process, "").kill()


@contextmanager
def linked(stage: Stage) -> Iterator[tuple[Link, Far]]:
    """A head here with room for the other roles, and a machine at the end of a link for two of them."""
    link, home = Link(), stage.home / "link"
    for name, value in QUICK.items():
        os.environ[f"RAY_health_check_{name}"] = value
    try:
        link.lay()
        more = ("--num-gpus=4", "--labels=ray.io/accelerator-type=GeForce-RTX-3090")
        with head(home, host=NEAR, more=more) as near:
            far = Far(link, near.address)
            try:
                yield link, far
            finally:
                typed_ray.shutdown()
                link.restore()
                far.end()
    finally:
        link.remove()
        shutil.rmtree(home, ignore_errors=True)
        for name in QUICK:
            del os.environ[f"RAY_health_check_{name}"]


def link(stage: Stage) -> Iterator[Outcome]:
    """Cut for so short that nobody notices; and for so long that the machine is given up, comes back, and is begun again."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield Outcome("a link is cut", skipped="network namespaces want root, and the command `ip`")
        return
    with linked(stage) as (cable, far):
        yield _blink(stage, cable, far)
        yield _gone(stage, cable, far)


def _blink(stage: Stage, cable: Link, far: Far) -> Outcome:
    found = Outcome(f"a link is cut for {BLINK:g} s")

    def blink() -> None:
        cable.cut()
        time.sleep(BLINK)
        cable.restore()

    aside = threading.Thread(target=blink)  # the run goes on meanwhile, as far as it can
    watch = Once("backtracking", 13, aside.start)
    summary = stage.play(found, f"cluster.address={far.address}", *BOUND, watch=watch)
    if watch.done:
        aside.join()
    found.injected = watch.done
    found.expect(not summary.get("losses"), f"roles were lost: {summary.get('losses')}")
    return found


class Restored(Once):
    """Cuts the link; once the run says that it waits, restores it, and begins the machine again."""

    def __init__(self, step: int, cable: Link, far: Far) -> None:
        super().__init__("backtracking", step, cable.cut)
        self.cable, self.far, self.back = cable, far, False

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("waiting: ") and not self.back:
            self.back = True
            self.cable.restore()
            self.far.end()
            self.far.begin()


def _gone(stage: Stage, cable: Link, far: Far) -> Outcome:
    found = Outcome("a link is cut until its machine is given up, then restored")
    watch = Restored(13, cable, far)
    summary = stage.play(found, f"cluster.address={far.address}", *BOUND, watch=watch)
    found.injected = watch.done
    found.said += [told for told in watch.told if told.startswith("waiting: ")]
    found.expect(watch.back, "nothing was said of waiting")
    found.expect(summary.get("losses"), "no role was lost")
    return found


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
