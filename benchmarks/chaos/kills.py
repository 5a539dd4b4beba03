"""Roles killed at random moments, over and over: anywhere, at a checkpoint, at a switch, and while another one is put up."""

import random
import sys
import time
from collections.abc import Iterator

from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.saboteur import MOMENTS, Saboteur, faults
from disback_ray.actors.session import attach

A_RUN = 6


def kills(stage: Stage) -> Iterator[Outcome]:
    """So many kills over as many runs as it takes, until the time is over."""
    found, injected = Outcome("SIGKILL to a role"), dict.fromkeys(MOMENTS, 0)
    end = time.monotonic() + 60 * stage.minutes
    with attach("local"):
        while found.injected < stage.kills and found.runs < stage.kills and time.monotonic() < end:
            rng = random.Random(f"{stage.seed}/{found.runs}")
            saboteur = Saboteur(faults(rng, kills=min(A_RUN, stage.kills - found.injected)))
            try:
                stage.play(found, watch=saboteur)
            finally:
                saboteur.end()
            found.injected += len(saboteur.done)
            for fault in saboteur.done:
                injected[fault.moment] += 1
            print(f"{found.injected} kills in {found.runs} runs, {found.survived} survived", file=sys.stderr, flush=True)
    found.fault += f" ({', '.join(f'{count} {moment}' for moment, count in injected.items() if count)})"
    yield found
