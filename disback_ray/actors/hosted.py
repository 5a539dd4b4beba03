"""What a Ray actor is here: one role in a process of its own, with whatever it takes to make its calls in their turns."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch

from disback_ray.actors.busy import Busy
from disback_ray.actors.mishaps import told
from disback_ray.actors.parcel import Parcel, opened
from disback_ray.actors.placement import Whereabouts, where
from disback_ray.actors.snapshot import Snapshot
from disback_ray.actors.timesheet import Account, Timesheet
from disback_ray.actors.turns import Turns
from disback_ray.actors.wire import pack, unpack
from disback_ray.algorithms.ranks import ALONE, Ranks, is_of_a_peer, join
from disback_ray.errors import ClusterError
from disback_ray.storage import Folder


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of a role meet before it is built: one of them, the first one's (address, port), and seconds to wait."""

    ranks: Ranks
    timeout: float


class Hosted:
    """The actor: holds one role in a process of its own, and makes each call once, in its turn, in a thread of the role's own.

    Ray hands calls over as soon as their arguments are there, in any order, and a call's result is stored while the next is made.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.role: Any = None
        self.name = ""
        self.threads = threads
        self.turns = Turns()
        self.busy: tuple[str, float] | None = None
        self.longest: dict[str, float] = {}
        self.ranks = ALONE
        self.sheet = Timesheet()
        self.gauge = Busy(name)

    def meeting_point(self) -> tuple[str, int]:
        """(address, free port) of this machine, where the ranks of a role meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return str(ray.util.get_node_ip_address()), int(probe.getsockname()[1])  # type: ignore[no-untyped-call]

    async def account(self) -> Account:
        account: Account = await asyncio.wrap_future(self.turns.between(self.sheet.account))
        return account

    def clock(self) -> float:
        return time.monotonic()

    async def build(
        self, name: str, role: Callable[..., Any], arguments: dict[str, Any], shared: Folder, proof: str,
        trace: bool = False, meeting: Meeting | None = None, point: tuple[str, int] | None = None,
    ) -> Whereabouts:  # fmt: skip
        """A new role, in place of an old one where there is one: their weights must not need room at the same time.

        trace: whether each call is noted. meeting, point: of the ranks that this is one of.
        Raises ClusterError where the file `proof` in the folder can't be seen from here, and what building the role raises.
        """
        self.busy = "build", time.monotonic()
        try:
            if not shared.has(proof):
                raise ClusterError(
                    f"{name} runs on a machine that doesn't see {shared.uri}: set `storage` in the cluster file to what all machines share"
                )
            self.name, self.sheet.trace = name.partition("/")[0], trace
            building = self.turns.between(partial(self._build, role, arguments, meeting, point))
            built: Whereabouts = await asyncio.wrap_future(building)
            return built
        finally:
            self.busy = None

    def _build(
        self, role: Callable[..., Any], arguments: dict[str, Any], meeting: Meeting | None, point: tuple[str, int] | None
    ) -> Whereabouts:
        torch.set_num_threads(self.threads)  # of this thread, the role's
        if meeting and point:
            join(meeting.ranks, address=point[0], port=point[1], timeout=meeting.timeout)
            self.ranks = meeting.ranks
        self.role = None
        self.role = role(**arguments)
        self.turns.begin()
        return where()

    async def make(self, parcel: Parcel, *results: Any) -> tuple[float, Any]:
        """The call that a parcel holds; results: of other roles, that it is about."""
        turn, method, args, kwargs = opened(parcel, results)
        return await self.call(turn, method, *args, **kwargs)

    async def call(self, turn: int, method: str, *args: Any, **kwargs: Any) -> tuple[float, Any]:
        """(seconds, what the role's method gives). Raises OutOfTurn, and what the method raises.

        A call whose argument was lost never gets here, so its turn doesn't pass, and neither does that of any call after it.
        """
        made: tuple[float, Any] = await asyncio.wrap_future(self.turns.make(turn, partial(self._call, method, args, kwargs)))
        return made

    def _call(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, Any]:
        began = time.monotonic()
        self.busy = method, began
        try:
            with self.sheet.call(method, args) as gave:
                gave.append(self._make(method, args, kwargs))
        except RuntimeError as error:
            if self.ranks.count > 1 and is_of_a_peer(error):
                os._exit(1)  # so that the group is lost, and built again, as one
            raise
        finally:
            self.busy = None
        took = time.monotonic() - began
        self.gauge.add(took)
        self.longest[method] = max(took, self.longest.get(method, 0.0))
        return took, gave[0]

    @ray.method(concurrency_group="aside")
    def aside(self, method: str, *args: Any, **kwargs: Any) -> tuple[float, Any]:
        """The same for what the role does in passing, in a thread of its own."""
        began = time.monotonic()
        return time.monotonic() - began, self._make(method, args, kwargs)

    @ray.method(concurrency_group="health")
    def beat(self) -> tuple[str, float, float]:
        """The method that it is in at the moment, if any, since how many seconds, and the longest that it took so far."""
        busy = self.busy
        return (busy[0], time.monotonic() - busy[1], self.longest.get(busy[0], 0.0)) if busy else ("", 0.0, 0.0)

    @ray.method(concurrency_group="health")
    def dismiss(self, after: int) -> None:
        """The call with that turn failed before it got here: those that wait for it fail as well."""
        self.turns.dismiss(after=after)

    def _make(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [unpack(value) for value in args]
        named = {name: unpack(value) for name, value in kwargs.items()}
        with told(self.name, method, given):
            made = getattr(self.role, method)(*given, **named)
        return pack(made.copied() if isinstance(made, Snapshot) else made)  # it is stored while the role goes on and changes
