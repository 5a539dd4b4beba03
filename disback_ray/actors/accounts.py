"""What each seat has done with its time, and how its clock and the driver's compare."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from disback_ray.actors.players import Player
from disback_ray.actors.timesheet import Account

PINGS = 7


def accounts_of(players: Iterable[Player], seats: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Account], dict[str, float]]:
    """Each seat's calls since it was last asked, and what to add to its clock to have the driver's. Lost ones are left out."""
    here = ray.get_runtime_context().get_node_id()
    accounts, clocks = {}, {}
    for player in players:
        for seat, actor in player.process.actors.items():
            try:
                accounts[seat] = ray.get(actor.account.remote())
                clocks[seat] = 0.0 if seats[seat]["node_id"] == here else _clock(actor)  # of a machine, there is one
            except RayError:
                accounts.pop(seat, None)
    return accounts, clocks


def _clock(actor: Any) -> float:
    """Seconds to add to an actor's clock to have this process's: by the shortest of some round trips, to half its length."""
    trips: list[tuple[float, float]] = []
    for _ in range(PINGS):
        before = time.monotonic()
        theirs = ray.get(actor.clock.remote())
        after = time.monotonic()
        trips.append((after - before, (before + after) / 2 - theirs))
    return min(trips)[1]
