"""What the roles ask for as bundles, one for each device; how many GPUs 'automatic' is; which doesn't fit. Knows no Ray."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from disback_ray.errors import ConfigError, PlacementError

GRAIN = 10_000  # Ray counts resources in 1/10000
NODES_NAMED = 8  # in an error
RANKS_SHARE_NOTHING = "that one has ranks, and each needs a device of its own: give this role another place"


class Resources(Protocol):
    """What one role asks for. gpus None: automatic; share: the role whose device it uses as well."""

    @property
    def gpus(self) -> float | None: ...
    @property
    def cpus(self) -> float: ...
    @property
    def accelerator(self) -> str | None: ...
    @property
    def actors(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def share(self) -> str | None: ...


@dataclass(frozen=True)
class Bundle:
    """One reservation. members: the (role, replica) in it, the one it is for first; gpus None: automatic, not decided yet."""

    members: tuple[tuple[str, int], ...]
    gpus: float | None
    cpus: float
    accelerator: str | None

    @property
    def portion(self) -> float:
        """GPUs of each member: an equal part of the one device, rounded down to what Ray counts."""
        return _down((self.gpus or 0.0) / len(self.members))

    @property
    def is_even(self) -> bool:
        """Whether such parts fill a device, or it is whole devices: then the sum of what is free says whether there is room."""
        return not self.gpus or self.gpus >= 1 or self.gpus == _down(1 / round(1 / self.gpus))

    def __str__(self) -> str:
        return " with ".join(dict.fromkeys(role for role, _ in self.members))


@dataclass(frozen=True)
class Node:
    """A machine. free: what nothing holds at the moment."""

    address: str
    accelerator: str | None
    gpus: float
    cpus: float
    free_gpus: float
    free_cpus: float

    def __str__(self) -> str:
        name = f" {self.accelerator}" if self.accelerator else ""
        return f"{self.address} {self.free_gpus:g}/{self.gpus:g} GPU{name}, {self.free_cpus:g}/{self.cpus:g} CPU"


def check(roles: Mapping[str, Resources]) -> None:
    """Raises ConfigError where the roles contradict one another."""
    for name, asked in roles.items():
        where = f"roles.{name}"
        if asked.gpus is not None and (asked.gpus < 0 or (asked.gpus > 1 and asked.gpus % 1)):
            raise ConfigError(f"{where}.gpus: {asked.gpus:g}: whole GPUs, or a part of one")
        if asked.ranks > 1 and (asked.share or (asked.gpus is not None and 0 < asked.gpus < 1)):
            raise ConfigError(
                f"{where}.ranks: {asked.ranks}: each needs a device of its own: leave out `with`, and parts of a GPU"
            )
        if asked.share is None:
            continue
        if asked.share == name or asked.share not in roles:
            others = ", ".join(other for other in roles if other != name)
            raise ConfigError(f"{where}.with: {asked.share}: name another role of the cast: {others}")
        host = roles[asked.share]
        if host.share is not None:
            raise ConfigError(f"{where}.with: {asked.share}: that one is itself with {host.share}: name {host.share} in both")
        if asked.gpus is not None or asked.accelerator not in (None, host.accelerator):
            raise ConfigError(f"{where}.with: {asked.share}: leave out gpus and accelerator: they are {asked.share}'s")
        if (host.gpus or 0) > 1:
            raise ConfigError(f"{where}.with: {asked.share}: that one has {host.gpus:g} GPUs: only one can be shared")


def bundles_for(roles: Mapping[str, Resources], nodes: Sequence[Node]) -> list[Bundle]:
    """One bundle for each replica, or rank, of each role that has a device of its own. Replica i of a role `with` it joins bundle i mod n.

    Automatic is 1 GPU for each bundle, the same part of one where the cluster has too few, and 0 where it has none.
    """
    members = {(name, i): [(name, i)] for name, asked in roles.items() if not asked.share for i in range(asked.actors)}
    for name, asked in roles.items():
        if asked.share:
            for i in range(asked.actors):
                members[asked.share, i % roles[asked.share].actors].append((name, i))
    bundles = [
        Bundle(tuple(inside), roles[name].gpus, sum(roles[role].cpus for role, _ in inside), roles[name].accelerator)
        for (name, _), inside in members.items()
    ]
    if not any(node.gpus for node in nodes):
        return _with_gpus(bundles, 0.0)
    for sharers in range(1, len(bundles) + 1):
        decided = _with_gpus(bundles, _down(1 / sharers))
        if first_unmet(decided, nodes, free=False) is None:
            return decided
    return _with_gpus(bundles, 1.0)


def check_ranks(roles: Mapping[str, Resources], bundles: Sequence[Bundle], nodes: Sequence[Node]) -> None:
    """Raises PlacementError where ranks would have to share a device: collective calls between them would hang, or be refused."""
    gpus, cpus = sum(int(node.gpus) for node in nodes), sum(int(node.cpus) for node in nodes)
    for name, asked in roles.items():
        if asked.ranks == 1:
            continue
        mine = next(bundle for bundle in bundles if bundle.members[0][0] == name)
        on_gpus = bool(gpus and mine.gpus)
        if on_gpus and len(mine.members) > 1:
            sharer = mine.members[1][0]
            raise PlacementError(f"roles.{sharer}.with: {name}: {RANKS_SHARE_NOTHING}")
        fits = (mine.gpus or 0) >= 1 and asked.ranks * (mine.gpus or 0) <= gpus if on_gpus else asked.ranks <= cpus
        if not fits:
            there = f"{gpus} GPUs for all roles" if on_gpus else f"{cpus} processors"
            raise PlacementError(
                f"roles.{name}.ranks: {asked.ranks}: more ranks than devices: {there}; lower ranks, or let frozen roles share with `with`"
            )


def first_unmet(bundles: Sequence[Bundle], nodes: Sequence[Node], *, free: bool) -> Bundle | None:
    """The first bundle that finds no node, the choosy and the large going first. free: in what nothing holds, not in all."""
    devices = [_devices(node.free_gpus if free else node.gpus) for node in nodes]
    cpus = [node.free_cpus if free else node.cpus for node in nodes]
    for bundle in sorted(bundles, key=lambda b: (b.accelerator is None, -(b.gpus or 0))):
        for i, node in enumerate(nodes):
            if cpus[i] + 1 / GRAIN < bundle.cpus or bundle.accelerator not in (None, node.accelerator):
                continue
            if (left := _take(devices[i], bundle.gpus or 0.0)) is not None:
                devices[i] = left
                cpus[i] -= bundle.cpus
                break
        else:
            return bundle
    return None


def refusal(roles: Mapping[str, Resources], bundles: Sequence[Bundle], nodes: Sequence[Node]) -> str:
    """One line: the role that can't be met, what each asked for, what each node has."""
    unmet = first_unmet(bundles, nodes, free=False) or first_unmet(bundles, nodes, free=True)
    who = f"{unmet} ({amounts(unmet.gpus or 0, unmet.cpus, unmet.accelerator)})" if unmet else "the roles together"
    asked = "; ".join(_asked(name, roles[name], bundles) for name in roles)
    there = "; ".join(str(node) for node in nodes[:NODES_NAMED])
    more = f"; and {len(nodes) - NODES_NAMED} more" if len(nodes) > NODES_NAMED else ""
    advice = "free devices, or ask for less under roles: in the cluster file"
    return f"can't place {who}: asked {asked}; available: {there}{more} — {advice}"


def amounts(gpus: float, cpus: float, accelerator: str | None) -> str:
    return f"{gpus:g} GPU{f' {accelerator}' if accelerator else ''}, {cpus:g} CPU"


def _asked(name: str, role: Resources, bundles: Sequence[Bundle]) -> str:
    times = f"{role.actors} × " if role.actors > 1 else ""
    if role.share:
        return f"{name} {times}{role.cpus:g} CPU with {role.share}"
    gpus = next(b.gpus for b in bundles if b.members[0][0] == name)
    return f"{name} {times}{amounts(gpus or 0, role.cpus, role.accelerator)}"


def _with_gpus(bundles: Iterable[Bundle], automatic: float) -> list[Bundle]:
    return [replace(b, gpus=automatic) if b.gpus is None else b for b in bundles]


def _devices(gpus: float) -> list[float]:
    """What is left of each device. Ray tells the sum only: all but one are taken to be whole."""
    whole, part = divmod(gpus, 1)
    return [1.0] * int(whole) + ([part] if part else [])


def _take(devices: list[float], gpus: float) -> list[float] | None:
    """The devices without `gpus`, a part coming off the device that it fills best; None where they don't have it."""
    left = sorted(devices)
    if gpus >= 1:
        whole = [i for i, device in enumerate(left) if device == 1][: int(gpus)]
        return [device for i, device in enumerate(left) if i not in whole] if len(whole) == gpus else None
    for i, device in enumerate(left):
        if device + 0.5 / GRAIN >= gpus:
            return [*left[:i], device - gpus, *left[i + 1 :]]
    return None if gpus else left


def _down(gpus: float) -> float:
    return math.floor(gpus * GRAIN + 1e-6) / GRAIN
