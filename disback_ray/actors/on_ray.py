"""The one proxy: a role in a Ray actor, whose methods take and give references instead of values."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from disback_ray.actors.placement import Placement, Whereabouts, where
from disback_ray.actors.wire import pack, unpack
from disback_ray.config import RoleResources
from disback_ray.errors import ClusterError, DisbackError
from disback_ray.storage import Folder

os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
"""wait() raises the first error; Ray would log, with tracebacks, all that follow from it in results nobody waits for any more."""

Part = tuple[Callable[..., Any], dict[str, Any]]
"""A role's class, and the arguments that build it wherever it runs."""


class Hosted:
    """The actor: holds one role in a process of its own."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.role: Any = None

    def sees(self, folder: Folder, name: str) -> bool:
        """Whether a file of the driver's can be seen from here."""
        return folder.has(name)

    def build(self, role: Callable[..., Any], arguments: dict[str, Any]) -> Whereabouts:
        self.role = role(**arguments)
        return where()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        given = {name: unpack(value) for name, value in kwargs.items()}
        return pack(getattr(self.role, method)(*map(unpack, args), **given))


class OnRay:
    """A role's stand-in: `name(*args)` → a reference to what the role's `name(*args)` will give."""

    def __init__(self, name: str, role_class: Callable[..., Any], *, options: dict[str, Any], threads: int) -> None:
        self._name = name
        hosted: Any = ray.remote(type(role_class.__name__, (Hosted,), {}))  # so that Ray's lists show which role it is
        self._actor: Any = hosted.options(**options).remote(threads)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = self._actor.call.options(name=f"{self._name}.{method}")
        return lambda *args, **kwargs: call.remote(method, *args, **kwargs)


class Replicas:
    """The proxies of one role; several only where it is stateless: the least busy one scores, `load` goes to all."""

    def __init__(self, proxies: Sequence[OnRay]) -> None:
        self.proxies = list(proxies)
        self.asked: list[list[Any]] = [[] for _ in self.proxies]
        self.given = [0] * len(self.proxies)

    def score(self, sample: Any) -> Any:
        if len(self.proxies) == 1:
            return self.proxies[0].score(sample)
        for index, asked in enumerate(self.asked):
            if asked:
                self.asked[index] = ray.wait(asked, num_returns=len(asked), timeout=0, fetch_local=False)[1]
        idlest = min(range(len(self.proxies)), key=lambda index: (len(self.asked[index]), self.given[index]))
        self.given[idlest] += 1
        score = self.proxies[idlest].score(sample)
        self.asked[idlest].append(score)
        return score

    def load(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [proxy.load(*args, **kwargs) for proxy in self.proxies]

    def __getattr__(self, method: str) -> Any:
        return getattr(self.proxies[0], method)


def seat(
    parts: Mapping[str, Part], roles: Mapping[str, RoleResources], placement: Placement, *, shared: Folder, proof: str
) -> tuple[dict[str, Replicas], dict[str, Whereabouts]]:
    """Puts each role on its promised device and builds it there; returns the roles, and where each replica runs.

    shared, proof: a folder that every role must see, and a file in it. Raises ClusterError where one doesn't, or a process is lost,
    and what building a role raises.
    """
    made = {
        name: [
            OnRay(name, parts[name][0], options=placement.options(name, replica), threads=roles[name].threads)
            for replica in range(roles[name].replicas)
        ]
        for name in parts
    }
    everyone = [(name, proxy) for name, proxies in made.items() for proxy in proxies]
    for (name, _), sees in zip(everyone, wait([proxy._actor.sees.remote(shared, proof) for _, proxy in everyone]), strict=True):
        if not sees:
            raise ClusterError(
                f"{name} runs on a machine that doesn't see {shared.uri}: set `storage` in the cluster file to what all machines share"
            )
    found = wait([proxy._actor.build.remote(*parts[name]) for name, proxy in everyone])
    labels = [name if len(made[name]) == 1 else f"{name}/{made[name].index(proxy)}" for name, proxy in everyone]
    return {name: Replicas(proxies) for name, proxies in made.items()}, dict(zip(labels, found, strict=True))


def wait(later: Any) -> Any:
    """References → values, in nested lists and tuples too. Raises the role's own error, or ClusterError where a role was lost."""
    if isinstance(later, (list, tuple)):
        return [wait(each) for each in later]
    try:
        return unpack(ray.get(later))
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, DisbackError):
            raise cause from None
        if isinstance(cause, RayActorError):
            raise ClusterError(_lost(cause)) from None
        raise
    except RayActorError as error:
        raise ClusterError(_lost(error)) from None
    except RayError as error:
        raise ClusterError(f"Ray: {str(error).strip().splitlines()[0]}") from None


def is_ready(later: Any) -> bool:
    """Whether waiting would not block."""
    if isinstance(later, (list, tuple)):
        return all(is_ready(each) for each in later)
    done, _ = ray.wait([later], timeout=0)
    return bool(done)


def _lost(error: RayActorError) -> str:
    reason = " ".join(str(error).split())
    return f"a role's process was lost: {reason[:300]}; run the same command again to go on from the last checkpoint"
