"""Which device each role gets: one Ray placement group, a bundle for each device."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from disback_ray.actors.bundles import Bundle, Node, Resources, bundles_for, check, check_ranks, refusal
from disback_ray.errors import PlacementError

ACCELERATOR = "ray.io/accelerator-type"


@dataclass(frozen=True)
class Whereabouts:
    """node: its address; devices: the ids of the GPUs that Ray gave, as the node numbers them."""

    pid: int
    host: str
    node: str
    node_id: str
    devices: tuple[str, ...]


def where() -> Whereabouts:
    """Where the actor runs that calls this."""
    context = ray.get_runtime_context()
    devices = tuple(context.get_accelerator_ids().get("GPU", ()))
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return Whereabouts(os.getpid(), socket.gethostname(), address, context.get_node_id(), devices)


@dataclass(frozen=True)
class Placement:
    """A cast's reservation. It holds until remove(), or until the driver ends. nodes: of each bundle."""

    group: PlacementGroup
    bundles: Sequence[Bundle]
    nodes: Sequence[Node]
    roles: Mapping[str, Resources]
    hide_devices: bool

    def options(self, role: str, replica: int = 0) -> dict[str, Any]:
        """For `actor.options(...)`. A role without a GPU sees none: Ray by itself would show it those of the others."""
        index, bundle = next((i, b) for i, b in enumerate(self.bundles) if (role, replica) in b.members)
        hidden = {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}
        return {
            "num_cpus": self.roles[role].cpus,
            "num_gpus": bundle.portion,
            "max_restarts": 0,  # a restarted actor has lost its weights, and says nothing
            "max_task_retries": 0,  # an update must not run twice
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index),
            **(hidden if self.hide_devices and not bundle.portion else {}),
        }

    def missing(self) -> str:
        """What can't be had at the moment of what was reserved, in one line; nothing while it is whole. Machines go, and come back."""
        if placement_group_table(self.group)["state"] == "CREATED":
            return ""
        return refusal(self.roles, self.bundles, list(_nodes().values()))

    def describe(self) -> list[str]:
        """A line for each machine: who plays there, and on how much of a GPU."""
        seated: dict[str, list[str]] = {}
        for bundle, node in zip(self.bundles, self.nodes, strict=True):
            machine = f"{node.address} ({node.accelerator})" if node.accelerator else node.address
            for role, replica in bundle.members:
                name = f"{role}/{replica}" if self.roles[role].actors > 1 else role
                part = f": {bundle.portion:g} GPU" if bundle.portion else ""
                seated.setdefault(machine, []).append(f"{name}{part}")
        return [f"on {machine}: {', '.join(names)}" for machine, names in seated.items()]

    def remove(self) -> None:
        """Frees the devices; what still runs on them ends."""
        remove_placement_group(self.group)


def place(roles: Mapping[str, Resources], *, timeout: float) -> Placement:
    """Reserves what the roles ask for: all of it within `timeout` seconds, or nothing.

    Raises ConfigError where the roles contradict one another, PlacementError where they were not met in time.
    """
    check(roles)
    nodes = _nodes()
    bundles = bundles_for(roles, list(nodes.values()))
    check_ranks(roles, bundles, list(nodes.values()))
    # Ray packs by the sum of a machine's GPUs: three parts of .6 seem to fit two of them. Spread, they meet the devices that hold them.
    group = placement_group(  # no name: a fixed one collides with that of a run before
        [{"CPU": b.cpus} | ({"GPU": b.gpus} if b.gpus else {}) for b in bundles],
        strategy="PACK" if all(bundle.is_even for bundle in bundles) else "SPREAD",
        bundle_label_selector=[{ACCELERATOR: b.accelerator} if b.accelerator else {} for b in bundles],
    )
    ready = False
    try:
        ready = _wait(group, timeout=timeout)
    finally:  # on Ctrl-C as well
        if not ready:
            remove_placement_group(group)
    nodes = _nodes()
    if not ready:
        raise PlacementError(refusal(roles, bundles, list(nodes.values())))
    ids = placement_group_table(group)["bundles_to_node_id"]
    homes = [nodes[ids[index]] for index in range(len(bundles))]
    return Placement(group, bundles, homes, roles, hide_devices=any(node.gpus for node in nodes.values()))


def _wait(group: PlacementGroup, *, timeout: float) -> bool:
    """In short waits: Python sees Ctrl-C only between them."""
    end = time.monotonic() + timeout
    while not group.wait(min(0.5, max(0.0, end - time.monotonic()))):
        if time.monotonic() >= end:
            return False
    return True


def _nodes() -> dict[str, Node]:
    """The cluster's living machines, by Ray's id."""
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: Node(
            node["NodeManagerAddress"],
            node["Labels"].get(ACCELERATOR),
            gpus=node["Resources"].get("GPU", 0.0),
            cpus=node["Resources"].get("CPU", 0.0),
            free_gpus=free.get(node["NodeID"], {}).get("GPU", 0.0),
            free_cpus=free.get(node["NodeID"], {}).get("CPU", 0.0),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }
