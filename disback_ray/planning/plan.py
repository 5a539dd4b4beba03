"""Footprints on devices: what fits where, how long a step takes, which device holds the others up, and what one more would bring."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from disback_ray.actors.bundles import RANKS_SHARE_NOTHING, check
from disback_ray.actors.company import log_steps
from disback_ray.algorithms.records import CROSSINGS, WIRE_BYTES
from disback_ray.config import ClusterConfig, Recipe, RoleResources
from disback_ray.errors import ConfigError
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.planning.cards import Card, Cores
from disback_ray.planning.dry_run import CAST, FROZEN, Footprint
from disback_ray.planning.measured import Measured


@dataclass(frozen=True)
class RolePlan:
    """One role. devices: its replicas' or ranks'; seconds: of a step, for each of them; footprint: of each. ranks: of those that train."""

    name: str
    footprint: Footprint
    seconds: float
    devices: int
    ranks: int = 1

    @property
    def gradients(self) -> int:
        """Bytes over each link to add up the ranks' gradients in a step, round a ring."""
        return 2 * (self.ranks - 1) * self.footprint.parameters // self.ranks


@dataclass(frozen=True)
class Device:
    """Roles that share one device. portion: of the card that they have together; needs: bytes, at most together."""

    card: Card
    roles: tuple[RolePlan, ...]
    portion: float = 1.0

    @property
    def name(self) -> str:
        return " + ".join(role.name for role in self.roles)

    @property
    def count(self) -> int:
        return self.roles[0].devices

    def on_each(self, role: RolePlan) -> int:
        """How many of a role's replicas share each of the devices."""
        return math.ceil(role.devices / self.count)

    @property
    def needs(self) -> float:
        peaks = ((role, role.footprint.on_cores if isinstance(self.card, Cores) else role.footprint.peak) for role in self.roles)
        return sum(self.on_each(role) * self.card.needs(peak) for role, peak in peaks)

    @property
    def memory(self) -> float:
        return self.card.memory * self.portion

    @property
    def fits(self) -> bool:
        return self.needs <= self.memory

    @property
    def seconds(self) -> float:
        """Busy in a step. The teacher and a path node are not asked in the same one, but where one is blended into the other."""
        busy = {role.name: self.on_each(role) * role.seconds for role in self.roles}
        targets = [busy.pop(name) for name in FROZEN if name in busy]
        return sum(busy.values()) + max(targets, default=0.0)


@dataclass(frozen=True)
class Plan:
    """devices: with what plays on each. wire: bytes that cross between roles in a step; log_steps: so many steps' are kept at most.

    blend: for so many steps after a switch one more score crosses; measured: the run whose times these are, and of how many steps; ""
    where they are computed.
    """

    devices: tuple[Device, ...]
    wire: int
    log_steps: int = 1
    measured: str = ""
    blend: int = 0

    @property
    def blended_wire(self) -> int:
        """Bytes that cross in a step in which one target is blended into the next."""
        return self.wire * (CROSSINGS + 1) // CROSSINGS

    @property
    def bottleneck(self) -> Device:
        return max(self.devices, key=lambda device: device.seconds)

    @property
    def seconds(self) -> float:
        """The pipeline's bound: no step is shorter than its busiest device's part. Where all share cores, than the sum over them."""
        together = sum(device.seconds * device.count for device in self.on_cores) / (os.cpu_count() or 1)
        return max(self.bottleneck.seconds, together)

    @property
    def on_cores(self) -> tuple[Device, ...]:
        """Those that are this machine's cores: they have its memory together."""
        return tuple(device for device in self.devices if isinstance(device.card, Cores))

    @property
    def cores_need(self) -> float:
        """Bytes."""
        return sum(device.needs * device.count for device in self.on_cores)

    @property
    def cores_fit(self) -> bool:
        return not self.on_cores or self.cores_need <= self.on_cores[0].card.memory

    @property
    def fits(self) -> bool:
        return all(device.fits for device in self.devices) and self.cores_fit

    def with_one_more(self) -> float:
        """The bound with one more device for the bottleneck: for a replica or rank of its role, or for some of those that share it."""
        worst = self.bottleneck
        if len(worst.roles) == 1:
            (role,) = worst.roles
            spread = replace(role, seconds=role.seconds * role.devices / (role.devices + 1), devices=role.devices + 1)
            ways: list[tuple[Device, ...]] = [(replace(worst, roles=(spread,)),)]
        else:
            counts = range(1, len(worst.roles))
            ways = [_with_some_apart(worst, some) for count in counts for some in combinations(worst.roles, count)]
        others = tuple(device for device in self.devices if device is not worst)
        return min(replace(self, devices=(*others, *way)).seconds for way in ways)


def _with_some_apart(device: Device, some: Sequence[RolePlan]) -> tuple[Device, Device]:
    """The device without some of its roles, and one more with all of those roles' work."""
    stay = [replace(r, seconds=device.on_each(r) * r.seconds, devices=device.count) for r in device.roles if r not in some]
    go = [replace(r, seconds=r.devices * r.seconds, devices=1) for r in device.roles if r in some]
    return replace(device, roles=tuple(stay)), replace(device, roles=tuple(go))


def make(
    recipe: Recipe,
    spec: DenoiserSpec,
    cluster: ClusterConfig,
    *,
    card_of: Mapping[str, Card],
    needed: Mapping[str, Footprint],
    run: Measured | None = None,
) -> Plan:
    """The plan of a recipe on a cluster file's roles. card_of: each role's device; needed: of one device of each.

    run: whose times count, where there was one.

    Raises ConfigError where the roles contradict one another.
    """
    roles = {name: asked for name, asked in cluster.roles.by_name().items() if name in CAST}
    check(roles)
    for name, asked in roles.items():
        host = roles.get(asked.share or "")
        if host is not None and host.ranks > 1 and not isinstance(card_of[name], Cores):
            raise ConfigError(f"roles.{name}.with: {asked.share}: {RANKS_SHARE_NOTHING}")
    times = run.seconds if run else {}
    planned = {
        name: _role(
            needed[name],
            asked,
            card_of[name],
            name=name,
            bf16=getattr(recipe.precision, name) != "fp32",
            measured=times.get(name),
        )
        for name, asked in roles.items()
    }
    devices = []
    for name, asked in roles.items():
        if asked.share is None or asked.share not in roles:
            sharers = [planned[name], *(planned[other] for other, its in roles.items() if its.share == name)]
            devices.append(Device(card_of[name], tuple(sharers), portion=asked.gpus if asked.gpus and asked.gpus < 1 else 1.0))
    numbers = recipe.batch * math.prod(spec.shape)
    most = min(recipe.checkpoint_every, log_steps(recipe, spec.shape, cluster.recovery))
    said = f"{run.run} ({run.steps:,} steps)" if run else ""
    return Plan(tuple(devices), CROSSINGS * numbers * WIRE_BYTES[recipe.wire_dtype], most, said, recipe.backtracking.blend)


def _role(needs: Footprint, asked: RoleResources, card: Card, *, name: str, bf16: bool, measured: float | None) -> RolePlan:
    """measured: seconds of a step on all of its devices together, where a run has told."""
    threads = asked.threads if isinstance(card, Cores) else 1
    seconds = card.seconds(needs.flops, bf16=bf16) / threads / asked.replicas if measured is None else measured / asked.actors
    return RolePlan(name, needs, seconds, asked.actors, asked.ranks)
