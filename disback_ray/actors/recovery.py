"""Roles that outlive their processes: what each was asked for is remembered, and made again where a process is lost.

No gradient crosses between the roles, and all randomness is keyed. So a role that is built anew, loads the last checkpoint and is
given its calls since then again, in their order, is bit for bit the one that was lost, while the others keep what they have.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray._private.state import state as typed_state

from disback_ray.actors.accounts import accounts_of
from disback_ray.actors.building import Builder
from disback_ray.actors.calls import NOTHING, Call, calls_in, forget_before, nature_of, values_in
from disback_ray.actors.mending import Mender
from disback_ray.actors.on_ray import OnRay
from disback_ray.actors.outcomes import Outcomes
from disback_ray.actors.players import Audience, Player, Proxy
from disback_ray.actors.rank_group import RankGroup
from disback_ray.actors.signs_of_life import SignsOfLife
from disback_ray.actors.slowness import Slowness
from disback_ray.actors.timesheet import Account
from disback_ray.actors.waiting import Waiting, is_ready
from disback_ray.config import RecoveryLimits

state: Any = typed_state

IDLE_SECONDS = 5.0
"""So often a role that has nothing to do is asked for a sign of life, and Ray for machines that are to go."""


class Recovery:
    """All roles of a run, their calls in one order, and whoever of them is lost put up again. seats: where each runs at the moment."""

    def __init__(self, limits: RecoveryLimits, audience: Audience, *, missing: Callable[[], str]) -> None:
        """missing: what the cluster lacks at the moment of what was reserved, in one line; nothing while it has it."""
        self.limits, self.audience = limits, audience
        self.players: dict[str, Player] = {}
        self.calls = 0
        self.slowness = Slowness()
        self.drained: set[str] = set()
        self.looked = self.looked_who_leaves = time.monotonic()
        self._signs = SignsOfLife(self.players, limits)
        self._waiting = Waiting(self.players, self._signs, audience, missing=missing)
        self._builder = Builder(self.players, self._waiting, limits)
        self._mender = Mender(self.players, self._signs, self._waiting, self._builder, audience)
        self._outcomes = Outcomes(self._waiting, self._mender)
        self.seats = self._builder.seats

    def seat(self, roles: Mapping[str, tuple[Callable[..., Any], Callable[[], OnRay | RankGroup]]]) -> dict[str, Proxy]:
        """Builds each role, given its class and how to begin a process for it. Raises what building raises, or ClusterError."""
        self.players.update({name: Player(name, role, spawn, spawn()) for name, (role, spawn) in roles.items()})
        self._builder.build_all().tell(self.audience)
        return {name: Proxy(player, self.submit) for name, player in self.players.items()}

    def submit(self, player: Player, method: str, *args: Any, **kwargs: Any) -> Call:
        call = Call(player.name, method, nature_of(player.role, method), args, kwargs, self.calls)
        self.calls += 1
        player.log.append(call)
        call.note, call.ref = player.send(call)
        return call

    def wait(self, later: Any) -> Any:
        """Calls → their values, in nested lists and tuples too. Raises the role's own error, or ClusterError where it is lost for good."""
        asked = [call for call in calls_in(later) if call.value is NOTHING]
        if asked:
            self._outcomes.fetch(asked)
        self._look_now_and_then()
        return values_in(later)

    def is_ready(self, later: Any) -> bool:
        """Whether waiting would not block."""
        return is_ready(later)

    def kept(self, points: Sequence[tuple[Call, tuple[Any, ...], dict[str, Any]]] = ()) -> None:
        """From now on each role goes on from its snapshot, given the call that took it, and what `load` takes; none: from now.

        What all roles were asked for before is waited for, and forgotten. No role but the saved ones may have been changed by it.
        """
        loads = {
            taken.role: Call(taken.role, "load", "starts", args, kwargs, taken.index, good=True) for taken, args, kwargs in points
        }
        first = min((load.index for load in loads.values()), default=self.calls)
        logs: dict[str, list[Call]] = {}
        for name, player in self.players.items():
            load = loads.get(name)
            log = [call for call in player.log if not (call.nature == "aside" and call.good)]  # they hold snapshots
            logs[name] = forget_before(log, load.index if load else first)
            if load:  # in place of the call that took the snapshot, and of what began the role before
                logs[name] = [load, *(call for call in logs[name] if call.index > load.index)]
        dropped = [call for name, player in self.players.items() for call in set(player.log).difference(logs[name])]
        self._outcomes.all_made(dropped)
        self._say_who_is_slow(dropped)
        for name, player in self.players.items():
            player.log = logs[name]
            notes = {call.note for call in player.log}
            player.under_way = {turn: note for turn, note in player.under_way.items() if note in notes}

    def accounts(self) -> tuple[dict[str, Account], dict[str, float]]:
        """Each seat's calls since it was last asked, and what to add to its clock to have the driver's. Lost ones are left out."""
        return accounts_of(self.players.values(), self.seats, timeout=self.limits.hang)

    def renew(self) -> None:
        """Builds every role anew, in the process that it has, as if nothing had been asked of any. What is under way ends first."""
        self._waiting.until_there([call.note for player in self.players.values() for call in player.log if call.note is not None])
        for player in self.players.values():
            player.log, player.turns, player.under_way = [], 0, {}
        self._builder.build_all()

    def leaving(self) -> list[str]:
        """Machines with a role on them that have said, since this was last asked, that they are to go."""
        if time.monotonic() - self.looked_who_leaves < IDLE_SECONDS:
            return []
        self.looked_who_leaves = time.monotonic()
        draining = set(state.get_draining_nodes())
        new, self.drained = draining - self.drained, draining
        return sorted({f"{seat['node']} ({name})" for name, seat in self.seats.items() if seat["node_id"] in new})

    def _look_now_and_then(self) -> None:
        """Who has died while it had nothing to do is put up again now, and not only when it is needed."""
        if time.monotonic() - self.looked > IDLE_SECONDS:
            self.looked = time.monotonic()
            if self._signs.listen():
                self._mender.mend([])

    def _say_who_is_slow(self, calls: Iterable[Call]) -> None:
        made = [call for call in calls if call.note is not None and call.nature != "aside"]
        seconds = ray.get([call.note for call in made])
        for line in self.slowness.note((call.role, call.method, each) for call, each in zip(made, seconds, strict=True)):
            self.audience.say(line)
