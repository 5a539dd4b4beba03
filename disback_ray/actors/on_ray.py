"""The one proxy: a role in a Ray actor, whose methods take and give references instead of values."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from disback_ray.actors.busy import Busy
from disback_ray.actors.mishaps import told
from disback_ray.actors.placement import Whereabouts, where
from disback_ray.actors.snapshot import Snapshot
from disback_ray.actors.timesheet import Account, Timesheet
from disback_ray.actors.turns import Turns
from disback_ray.actors.wire import pack, unpack
from disback_ray.algorithms.ranks import ALONE, Ranks, is_of_a_peer, join
from disback_ray.errors import ClusterError
from disback_ray.storage import Folder

os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
"""Whoever waits meets the first error; Ray would log, with tracebacks, all that follow from it in results nobody waits for any more."""

MOST_WAITING = 100_000
"""Calls that may wait in an actor: they take no threads."""

Part = tuple[Callable[..., Any], dict[str, Any]]
"""A role's class, and the arguments that build it wherever it runs."""


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
        if not shared.has(proof):
            raise ClusterError(
                f"{name} runs on a machine that doesn't see {shared.uri}: set `storage` in the cluster file to what all machines share"
            )
        self.name, self.sheet.trace = name.partition("/")[0], trace
        built: Whereabouts = await asyncio.wrap_future(self.turns.between(partial(self._build, role, arguments, meeting, point)))
        return built

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


def begin(name: str, role: Callable[..., Any], *, options: dict[str, Any], threads: int) -> Any:
    """Ray's handle of a new process, in which a role of that class is to be built."""
    kind = type(role.__name__, (Hosted,), {})  # so that Ray's lists show which role it is
    remote: Any = ray.remote
    hosted = remote(concurrency_groups={"aside": 1, "health": 1}, max_concurrency=MOST_WAITING)(kind)
    return hosted.options(**options).remote(name, threads)


class OnRay:
    """The process of one role, in its place on the cluster. Each call gives two references: to what it took, and to its result."""

    def __init__(
        self, name: str, part: Part, *, options: dict[str, Any], threads: int, shared: Folder, proof: str, trace: bool = False,
        begun: Any = None,
    ) -> None:  # fmt: skip
        """shared, proof: a folder that every role must see, and a file in it. trace: whether it notes each call.

        begun: what begin() gave, where a process stands by.
        """
        self._name, self._part, self._shared, self._proof, self._trace = name, part, shared, proof, trace
        self._actor = begun or begin(name, part[0], options=options, threads=threads)
        self._ways: dict[str, Any] = {}

    @property
    def actors(self) -> dict[str, Any]:
        """Ray's handles, by the names of the seats."""
        return {self._name: self._actor}

    def build(self, meeting: Meeting | None = None, point: Any = None) -> dict[str, Any]:
        """Later: its Whereabouts, by the name of its seat. point: the first rank's meeting_point(), where it is one of several."""
        build = self._actor.build
        return {self._name: build.remote(self._name, *self._part, self._shared, self._proof, self._trace, meeting, point)}

    def meeting_point(self) -> Any:
        """Later: see Hosted."""
        return self._actor.meeting_point.remote()

    def call(self, turn: int, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        way = self._ways.get(method)
        if way is None:
            way = self._ways[method] = self._actor.call.options(name=f"{self._name}.{method}", num_returns=2)
        note, result = way.remote(turn, method, *args, **kwargs)
        return note, result

    def aside(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        note, result = self._actor.aside.options(name=f"{self._name}.{method}", num_returns=2).remote(method, *args, **kwargs)
        return note, result

    def dismiss(self, turn: int) -> None:
        """The call of that turn was not made: those that wait for it are to fail as well."""
        self._actor.dismiss.remote(turn)

    def beat(self) -> Any:
        """Later: see Hosted."""
        return self._actor.beat.remote()

    def kill(self) -> None:
        """Ends the process, if it hasn't ended."""
        ray.kill(self._actor)

    def kill_stuck(self, *, pid: int, node_id: str) -> None:
        """The same where it may not even hear that it is to end: somebody beside it on its machine does it."""
        self.kill()
        remote: Any = ray.remote(num_cpus=0, max_retries=0)
        remote(_kill).options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Replicas:
    """The proxies of one role; several only where it is stateless: the least busy one scores, `load` and `prefetch` go to all."""

    def __init__(self, proxies: Sequence[Any]) -> None:
        self.proxies = list(proxies)
        self.asked: list[list[Any]] = [[] for _ in self.proxies]
        self.given = [0] * len(self.proxies)

    def score(self, sample: Any, **which: Any) -> Any:
        if len(self.proxies) == 1:
            return self.proxies[0].score(sample, **which)
        if out := [call.note for asked in self.asked for call in asked]:
            made = set(ray.wait(out, num_returns=len(out), timeout=0)[0])
            self.asked = [[call for call in asked if call.note not in made] for asked in self.asked]
        idlest = min(range(len(self.proxies)), key=lambda index: (len(self.asked[index]), self.given[index]))
        self.given[idlest] += 1
        score = self.proxies[idlest].score(sample, **which)
        self.asked[idlest].append(score)
        return score

    def prefetch(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [proxy.prefetch(*args, **kwargs) for proxy in self.proxies]

    def load(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [proxy.load(*args, **kwargs) for proxy in self.proxies]

    def __getattr__(self, method: str) -> Any:
        return getattr(self.proxies[0], method)
