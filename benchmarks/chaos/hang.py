"""What is alive and doesn't do its work: a role whose process is stopped, at work or while it is built."""

import os
import signal
import threading
import time
from collections.abc import Iterator

from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import Once, killed, process_of
from disback_ray.actors.session import attach

BEGUN = ("PENDING_CREATION", "ALIVE")


def hang(stage: Stage) -> Iterator[Outcome]:
    """A process that is stopped says nothing: found by its heart, and replaced. So is the next one; the short form leaves that out."""
    yield at_work(stage)
    if not stage.short:
        yield while_built(stage)


def at_work(stage: Stage) -> Outcome:
    found = Outcome("a role's process stopped (SIGSTOP)")

    def stop() -> None:
        if pid := process_of("fake_score"):
            os.kill(pid, signal.SIGSTOP)
            found.injected += 1

    with attach("local"):
        summary = stage.play(found, "cluster.recovery.hang=10", watch=Once("backtracking", 15, stop))
        found.said += [event["reason"] for event in summary.get("recoveries", [])]
        found.expect(summary.get("losses"), "it was not replaced")
    return found


def while_built(stage: Stage) -> Outcome:
    """A role is killed, and the process in its place stopped as soon as Ray has one."""
    found = Outcome("a lost role's next process stopped (SIGSTOP) while it is built")

    def stop_the_next(of: int) -> None:
        found.injected += killed(of)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if (pid := process_of("fake_score", states=BEGUN)) and pid != of:
                os.kill(pid, signal.SIGSTOP)
                found.injected += 1
                return
            time.sleep(0.02)

    def lose() -> None:
        if pid := process_of("fake_score"):
            threading.Thread(target=stop_the_next, args=(pid,)).start()

    with attach("local"):
        summary = stage.play(found, "cluster.recovery.hang=5", watch=Once("backtracking", 15, lose))
        found.said += [event["reason"] for event in summary.get("recoveries", [])]
        found.expect(found.injected == 2, "there was no second process to be stopped")
        found.expect(any("no sign of life" in reason for reason in found.said), "the second one was not given up")
    return found
