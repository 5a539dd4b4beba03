"""What each seat has done with its time, and how its clock and the driver's compare."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from disback_ray.actors.players import Player
from disback_ray.actors.timesheet import Account

PINGS = 7


def accounts_of(
    players: Iterable[Player], seats: Mapping[str, Mapping[str, Any]], *, timeout: float
) -> tuple[dict[str, Account], dict[str, float]]:
    """Each seat's calls since it was last asked, and what to add to its clock to have the driver's.

    Lost ones are left out, and those that give no answer in so many seconds: whoever needs them next finds that they hang.
    """
    here = ray.get_runtime_context().get_node_id()
    actors = {seat: actor for player in players for seat, actor in player.process.actors.items()}
    asked = {seat: actor.account.remote() for seat, actor in actors.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout)
    accounts, clocks = {}, {}
    for seat, later in asked.items():
        try:
            account = ray.get(later, timeout=0)
            clocks[seat] = 0.0 if seats[seat]["node_id"] == here else _clock(actors[seat], timeout)  # of a machine, there is one
            accounts[seat] = account
        except RayError:  # a timeout is one as well
            continue
    return accounts, clocks


def _clock(actor: Any, timeout: float) -> float:
    """Seconds to add to an actor's clock to have this process's: by the shortest of some round trips, to half its length."""
    trips: list[tuple[float, float]] = []
    for _ in range(PINGS):
        before = time.monotonic()
        theirs = ray.get(actor.clock.remote(), timeout=timeout)
        after = time.monotonic()
        trips.append((after - before, (before + after) / 2 - theirs))
    return min(trips)[1]
