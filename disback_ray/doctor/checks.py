"""What was found on the machines → checks: passed, a warning, or failed, with what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rich.filesize import decimal

from disback_ray.doctor.findings import Examined, Machine

GB = 1e9
LITTLE_MEMORY, LITTLE_DISK, VERY_LITTLE_DISK = 4 * GB, 10 * GB, 1 * GB
SMALL_STORE = 0.5 * GB
BUSY = 0.9
"""A GPU of whose memory less than this is free has somebody else's work on it."""
SLOW_WIRE = 0.1 * GB
"""Gigabit Ethernet gives .117 GB/s; a batch of 8 images of 3 × 64 × 64 is .4 MB."""
SKEW_WARNS, SKEW_FAILS = 1.0, 30.0
"""Seconds. Locks and leases of a run's folder are told from their age."""

State = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. advice: what to do, '' where all is well."""

    name: str
    state: State
    found: str
    advice: str = ""


def check_all(examined: Examined) -> list[Check]:
    """All checks, in the order in which a person would look."""
    by_machine: list[Callable[[Machine], Check]] = [gpus, gpu_memory, memory, object_store, disk]
    found = [versions(examined)]
    found += [check(machine) for machine in examined.machines for check in by_machine]
    found += [storage(examined), *network(examined), *clocks(examined), placement(examined), exposure(examined)]
    return found


def versions(examined: Examined) -> Check:
    """The same Python (to the minor version) and the same packages on all machines."""
    seen: dict[str, dict[str, list[str]]] = {}
    for machine in examined.machines:
        python = machine.found.python.rpartition(".")[0]
        for package, version in {"python": python, **machine.found.versions}.items():
            seen.setdefault(package, {}).setdefault(version, []).append(machine.address)
    differ = {package: where for package, where in seen.items() if len(where) > 1}
    if differ:
        package, where = next(iter(differ.items()))
        shown = "; ".join(f"{version} on {', '.join(machines)}" for version, machines in where.items())
        return Check(
            "versions", "fail", f"{package}: {shown}", "install the same versions everywhere (constraints.txt pins them)"
        )
    return Check("versions", "pass", ", ".join(f"{package} {next(iter(where))}" for package, where in seen.items()))


def gpus(machine: Machine) -> Check:
    """GPUs that Ray hands out are GPUs that torch can use."""
    name, seen = f"GPUs of {machine.address}", machine.found.gpus
    told = f"Ray counts {machine.promised:g}, torch sees {len(seen)}"
    if machine.found.trouble:
        return Check(name, "fail", f"{told}: {machine.found.trouble}", "mend the GPU's driver, then restart Ray there")
    if machine.promised > len(seen):
        advice = "install a torch for CUDA there, or start Ray there with the --num-gpus that it has"
        return Check(name, "fail", told, advice)
    if machine.promised < len(seen):
        return Check(name, "warn", told, "the others stay idle: start Ray there without --num-gpus")
    kinds = ", ".join(dict.fromkeys(gpu.name for gpu in seen))
    return Check(name, "pass", f"{told}: {kinds}" if seen else "none: roles there run on the CPU")


def gpu_memory(machine: Machine) -> Check:
    """Nobody else's work is on the GPUs."""
    name, seen = f"GPU memory of {machine.address}", machine.found.gpus
    found = ", ".join(f"{decimal(gpu.free)} of {decimal(gpu.total)} free" for gpu in seen)
    if any(gpu.free < BUSY * gpu.total for gpu in seen):
        return Check(
            name, "warn", found, "something else uses that GPU: `nvidia-smi` there says what; a model may not fit beside it"
        )
    return Check(name, "pass", found or "no GPU")


def memory(machine: Machine) -> Check:
    found = f"{decimal(machine.found.memory_free)} of {decimal(machine.found.memory)} free"
    if machine.found.memory_free < LITTLE_MEMORY:
        return Check(f"memory of {machine.address}", "warn", found, "each role's process takes about 1 GB beside its model")
    return Check(f"memory of {machine.address}", "pass", found)


def object_store(machine: Machine) -> Check:
    """Where samples and score differences travel."""
    name, shared = f"object store of {machine.address}", machine.found.shared_memory
    found = decimal(int(machine.object_store)) + (f", {decimal(shared)} free in /dev/shm" if shared is not None else "")
    if shared is not None and shared < machine.object_store:
        return Check(
            name, "warn", found, "less shared memory than Ray reserved: it falls back to disk (in a container: --shm-size)"
        )
    if machine.object_store < SMALL_STORE:
        return Check(name, "warn", found, "start Ray there with a larger --object-store-memory")
    return Check(name, "pass", found)


def disk(machine: Machine) -> Check:
    """Ray logs and spills to the folder for temporary files."""
    name, free = f"disk of {machine.address}", machine.found.disk_free
    if free < LITTLE_DISK:
        state: State = "fail" if free < VERY_LITTLE_DISK else "warn"
        return Check(
            name, state, f"{decimal(free)} free", "Ray stops giving work to a machine whose disk is 95 % full: make room"
        )
    return Check(name, "pass", f"{decimal(free)} free")


def storage(examined: Examined) -> Check:
    """Every machine writes to the runs' storage, and reads there what the driver wrote."""
    if examined.unwritten:
        machine, reason = next(iter(examined.unwritten.items()))
        advice = "set `storage` in the cluster file to what all machines can write to (a shared folder, s3://…)"
        return Check("storage", "fail", f"{examined.storage}: {machine}: {reason}", advice)
    return Check("storage", "pass", f"{examined.storage}: written and read from {_machines(examined)}")


def network(examined: Examined) -> Iterator[Check]:
    """How fast tensors get from one machine to the next."""
    for wire in examined.wires:
        found = f"{decimal(int(wire.rate))}/s"
        slow = wire.rate < SLOW_WIRE
        advice = "slower than gigabit: keep roles that exchange large samples on one machine" if slow else ""
        yield Check(f"network {wire.source} → {wire.target}", "warn" if slow else "pass", found, advice)


def clocks(examined: Examined) -> Iterator[Check]:
    """Clocks that agree."""
    for machine in examined.machines:
        skew = machine.found.skew
        state: State = "fail" if abs(skew) > SKEW_FAILS else "warn" if abs(skew) > SKEW_WARNS else "pass"
        advice = "" if state == "pass" else "set the clocks by NTP: locks and logs tell their age by them"
        yield Check(f"clock of {machine.address}", state, f"{skew:+.3f} s from the driver's", advice)


def placement(examined: Examined) -> Check:
    """The cast that the cluster file asks for fits, now."""
    if examined.unplaced:
        return Check("placement", "fail", examined.unplaced, "change roles: in the cluster file, or free devices")
    return Check("placement", "pass", "every role of the cluster file finds its device")


def exposure(examined: Examined) -> Check:
    """Whoever reaches an open Ray port runs code on all machines."""
    if examined.private:
        return Check("exposure", "pass", "a private Ray, on loopback only")
    if not examined.token:
        advice = (
            "whoever reaches its ports can run code there: keep it on a private network, or set RAY_AUTH_MODE=token for all of it"
        )
        return Check("exposure", "warn", "the cluster asks for no token", advice)
    return Check("exposure", "pass", "the cluster asks for a token (unencrypted: a private network all the same)")


def _machines(examined: Examined) -> str:
    count = len(examined.machines)
    return f"{count} machines" if count > 1 else "one machine"
