"""What is alive and doesn't do its work: a role whose process is stopped, and one that gets a twentieth of the time."""

import os
import signal
import threading
import time
from collections.abc import Iterator

from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import Once, process_of
from disback_ray.actors.session import attach


def hang(stage: Stage) -> Iterator[Outcome]:
    """A process that is stopped says nothing: found by its heart, and replaced. One that is slow is named, and waited for."""
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
        if not stage.short:
            yield from _slow(stage)


def _slow(stage: Stage) -> Iterator[Outcome]:
    found, over, threads = Outcome("a role twenty times as slow"), threading.Event(), list[threading.Thread]()

    def drag(pid: int) -> None:
        while not over.wait(0.05):
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.95)
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                return

    def begin() -> None:
        if pid := process_of("fake_score"):
            threads.append(threading.Thread(target=drag, args=(pid,)))
            threads[0].start()
            found.injected += 1

    watch = Once("backtracking", 25, begin)
    try:
        stage.play(found, watch=watch)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    found.said += [told for told in watch.told if "is slow" in told]
    found.expect(any("fake_score is slow" in told for told in found.said), "it was not named")
    yield found
