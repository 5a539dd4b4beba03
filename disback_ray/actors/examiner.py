"""Examines a cluster for `disback-ray doctor`: a probe on each machine, and the ways between them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from disback_ray.actors.placement import ACCELERATOR, place
from disback_ray.actors.session import attach
from disback_ray.config import ClusterConfig
from disback_ray.doctor.findings import Examined, Findings, Machine, Wire, look
from disback_ray.errors import ClusterError, DisbackError, PlacementError
from disback_ray.storage import Folder

PARCEL = 64 << 20
"""Bytes that are sent to measure a wire."""
PROBE_SECONDS = 60.0
PLACEMENT_SECONDS = 15.0
TRIES = 5


class Probe:
    """Sits on one machine."""

    def look(self) -> Findings:
        return look()

    def clock(self) -> float:
        return time.time()

    def write(self, folder: Folder, name: str) -> str:
        """Writes a file to the storage and reads it back; '' or why that failed."""
        try:
            folder.write(name, name.encode())
            return "" if folder.read(name) == name.encode() else "what was read is not what was written"
        except DisbackError as error:
            return str(error)

    def sees(self, folder: Folder, names: list[str]) -> str:
        missing = [name for name in names if not folder.has(name)]
        return f"doesn't see what others wrote to {folder.uri}" if missing else ""

    def parcel(self) -> "np.ndarray[Any, Any]":
        return np.ones(PARCEL, np.uint8)

    def take(self, parcel: "np.ndarray[Any, Any]") -> int:
        return int(parcel[-1])


def examine(cluster: ClusterConfig) -> Examined:
    """Looks at every machine of the cluster. Raises ClusterError where Ray can't be reached or a machine doesn't answer."""
    with attach(cluster.address) as session, _probes() as probes:
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        try:
            addresses = _addresses(nodes, list(probes))
            machines = [_machine(addresses[id_], nodes[id_], probe) for id_, probe in probes.items()]
            return Examined(
                machines,
                cluster.storage,
                unwritten=_storage(Folder.at(cluster.storage), {addresses[id_]: probe for id_, probe in probes.items()}),
                wires=[_wire(a, b, addresses, probes) for a, b in _ways(list(probes))],
                unplaced=_unplaced(cluster),
                token=is_token_auth_enabled(),
                private=session.owned,
            )
        except RayError as error:
            reason = " ".join(str(error).split())[:200] or "no answer"
            raise ClusterError(f"a machine of the cluster doesn't answer: {reason}: look at `ray status`") from None


@contextmanager
def _probes() -> Iterator[dict[str, Any]]:
    """A probe on each living machine, by Ray's id for it."""
    hosted: Any = ray.remote(num_cpus=0, max_restarts=0)(Probe)
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    probes = {id_: hosted.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id_, soft=False)).remote() for id_ in alive}
    try:
        yield probes
    finally:
        for probe in probes.values():
            ray.kill(probe)


def _addresses(nodes: dict[str, dict[str, Any]], ids: list[str]) -> dict[str, str]:
    """What to call each: its address, and where several have one (a cluster of pretended machines) the start of Ray's id."""
    plain = {id_: str(nodes[id_]["NodeManagerAddress"]) for id_ in ids}
    shared = {address for address in plain.values() if list(plain.values()).count(address) > 1}
    return {id_: f"{address} ({id_[:8]})" if address in shared else address for id_, address in plain.items()}


def _machine(address: str, node: dict[str, Any], probe: Any) -> Machine:
    found: Findings = ray.get(probe.look.remote(), timeout=PROBE_SECONDS)
    resources = node["Resources"]
    return Machine(
        address,
        node["Labels"].get(ACCELERATOR),
        promised=resources.get("GPU", 0.0),
        object_store=resources.get("object_store_memory", 0.0),
        found=replace(found, skew=_skew(probe)),
    )


def _skew(probe: Any) -> float:
    """Its clock against ours, by the quickest of a few calls: the true one differs by half of that call's time at most."""
    best, skew = float("inf"), 0.0
    for _ in range(TRIES):
        before = time.time()
        there = ray.get(probe.clock.remote(), timeout=PROBE_SECONDS)
        after = time.time()
        if after - before < best:
            best, skew = after - before, there - (before + after) / 2
    return skew


def _storage(folder: Folder, probes: dict[str, Any]) -> dict[str, str]:
    """Every machine writes a file, then looks for all of them."""
    mark = f"doctor-{uuid4().hex}"
    names = {address: f"machine-{index}" for index, address in enumerate(probes)}
    unwritten = {}
    try:
        for address, probe in probes.items():
            if said := ray.get(probe.write.remote(folder / mark, names[address]), timeout=PROBE_SECONDS):
                unwritten[address] = said
        written = [name for address, name in names.items() if address not in unwritten]
        for address, probe in probes.items():
            if address not in unwritten and (said := ray.get(probe.sees.remote(folder / mark, written), timeout=PROBE_SECONDS)):
                unwritten[address] = said
    finally:
        with suppress(DisbackError):  # where nobody could write there is nothing, and that has been said
            folder.remove(mark)
    return unwritten


def _ways(ids: list[str]) -> list[tuple[str, str]]:
    """Each machine to the next, and the last to the first: n measurements, not n²."""
    return [*pairwise(ids), (ids[-1], ids[0])] if len(ids) > 1 else []


def _wire(source: str, target: str, addresses: dict[str, str], probes: dict[str, Any]) -> Wire:
    """The median is of three parcels, each new: one that has arrived before is there already."""
    seconds = []
    for _ in range(3):
        parcel = probes[source].parcel.remote()
        ray.wait([parcel], fetch_local=False, timeout=PROBE_SECONDS)
        began = time.monotonic()
        ray.get(probes[target].take.remote(parcel), timeout=PROBE_SECONDS)
        seconds.append(time.monotonic() - began)
        del parcel
    return Wire(addresses[source], addresses[target], PARCEL / sorted(seconds)[1])


def _unplaced(cluster: ClusterConfig) -> str:
    roles = {name: asked for name, asked in cluster.roles.by_name().items() if name != "teacher_trainer"}
    try:
        place(roles, timeout=min(cluster.placement_timeout, PLACEMENT_SECONDS)).remove()
    except PlacementError as error:
        return str(error)
    return ""
