"""What is alive and doesn't do its work: a role whose process is stopped."""

import os
import signal
from collections.abc import Iterator

from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import Once, process_of
from disback_ray.actors.session import attach


def hang(stage: Stage) -> Iterator[Outcome]:
    """A process that is stopped says nothing: found by its heart, and replaced."""
    found = Outcome("a role's process stopped (SIGSTOP)")

    def stop() -> None:
        if pid := process_of("fake_score"):
            os.kill(pid, signal.SIGSTOP)
            found.injected += 1

    with attach("local"):
        summary = stage.play(found, "cluster.recovery.hang=10", watch=Once("backtracking", 15, stop))
        found.said += [event["reason"] for event in summary.get("recoveries", [])]
        found.expect(summary.get("losses"), "it was not replaced")
    yield found
