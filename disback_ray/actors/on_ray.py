"""The one proxy: a role in a Ray actor, whose methods take and give references instead of values."""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._private.state import state as typed_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from disback_ray.actors.hosted import Hosted, Meeting
from disback_ray.actors.parcel import parcelled
from disback_ray.actors.parts import Part
from disback_ray.storage import Folder

state: Any = typed_state

os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
"""Whoever waits meets the first error; Ray would log, with tracebacks, all that follow from it in results nobody waits for any more."""

MOST_WAITING = 100_000
"""Calls that may wait in an actor: they take no threads."""


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
            way = self._ways[method] = self._actor.make.options(name=f"{self._name}.{method}", num_returns=2)
        parcel, later = parcelled(turn, method, args, kwargs, comes_later=lambda value: isinstance(value, ray.ObjectRef))
        note, result = way.remote(parcel, *later)
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

    def beats(self) -> list[Any]:
        """Later: of each of its processes."""
        return [self.beat()]

    def has_begun(self) -> bool:
        """Whether there is a process, on some machine: until then it waits for its place."""
        return bool(self._known().get("Pid"))

    def kill(self) -> None:
        """Ends the process, if it hasn't ended."""
        ray.kill(self._actor)

    def kill_stuck(self) -> None:
        """The same where it may not even hear that it is to end: somebody beside it on its machine does it."""
        known = self._known()
        self.kill()
        if known.get("Pid"):
            beside = NodeAffinitySchedulingStrategy(known["Address"]["NodeID"], soft=False)
            remote: Any = ray.remote(num_cpus=0, max_retries=0)
            remote(_kill).options(scheduling_strategy=beside).remote(known["Pid"])

    def _known(self) -> dict[str, Any]:
        """Its line in the table of actors of Ray's head, which has its process before that one answers; {} where there is none."""
        known: dict[str, Any] = state.actor_table(self._actor._actor_id.hex())
        return known


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Replicas:
    """The proxies of one role; several only where it is stateless: the least busy one scores, `load` and `prefetch` go to all.

    ranks: so many processes play it together, each with its turns at the micro-batches.
    """

    def __init__(self, proxies: Sequence[Any], *, ranks: int = 1) -> None:
        self.proxies, self.ranks = list(proxies), ranks
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

    def learn(self, *samples: Any, **which: Any) -> list[Any]:
        """One call of each rank, with the samples that it has scored: their errors are heard from each."""
        (proxy,) = self.proxies
        return [proxy.learn(*samples[rank :: self.ranks], **which) for rank in range(self.ranks)]

    def descend_all(self, *fields: Any, step: int) -> list[Any]:
        """A call for each field, so that each is descended as soon as it is there; each rank's last one commits."""
        (proxy,) = self.proxies
        first, last = fields[: -self.ranks], fields[-self.ranks :]
        return [*(proxy.descend(field) for field in first), *(proxy.descend_all(field, step=step) for field in last)]

    def prefetch(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [proxy.prefetch(*args, **kwargs) for proxy in self.proxies]

    def load(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [proxy.load(*args, **kwargs) for proxy in self.proxies]

    def __getattr__(self, method: str) -> Any:
        return getattr(self.proxies[0], method)
