"""Each check passes on a sound cluster, and says what to do where something is wrong."""

from dataclasses import replace
from typing import Any

import pytest

from disback_ray.doctor.checks import Check, check_all
from disback_ray.doctor.findings import Examined, Findings, Gpu, Machine, Wire

GB = 10**9
FOUND = Findings(
    host="a", python="3.11.7", versions={"ray": "2.60.0", "torch": "2.13.0"}, gpus=(Gpu("RTX 3090", 24 * GB, 25 * GB),), trouble="",
    memory_free=32 * GB, memory=64 * GB, shared_memory=20 * GB, disk_free=100 * GB, clock=1e9,
)  # fmt: skip
SOUND = Examined(
    [Machine(address, "GeForce-RTX-3090", 1.0, 8 * GB, FOUND) for address in ("10.0.0.1", "10.0.0.2")],
    "s3://runs",
    wires=[Wire("10.0.0.1", "10.0.0.2", 1.1 * GB)],
    private=False,
)


def second(**changes: Any) -> Examined:
    """The second machine is another."""
    of_machine = {name: value for name, value in changes.items() if name in Machine.__dataclass_fields__}
    of_findings = {name: value for name, value in changes.items() if name not in of_machine}
    machine = replace(SOUND.machines[1], found=replace(FOUND, **of_findings), **of_machine)
    return replace(SOUND, machines=[SOUND.machines[0], machine])


def wrong(examined: Examined) -> list[Check]:
    return [check for check in check_all(examined) if check.state != "pass"]


def test_a_sound_cluster_passes() -> None:
    checks = check_all(SOUND)
    assert len(checks) == 1 + 2 * 5 + 1 + 1 + 2 + 1 + 1
    assert all((check.state, check.advice) == ("pass", "") for check in checks)


@pytest.mark.parametrize(
    ("examined", "name", "state", "says"),
    [
        (second(versions={"ray": "2.61.0", "torch": "2.13.0"}), "versions", "fail", "ray: 2.60.0 on 10.0.0.1; 2.61.0 on 10.0.0.2"),
        (second(python="3.12.1"), "versions", "fail", "python: 3.11 on 10.0.0.1; 3.12 on 10.0.0.2"),
        (second(gpus=()), "GPUs of 10.0.0.2", "fail", "Ray counts 1, torch sees 0"),
        (second(gpus=(), trouble="driver too old"), "GPUs of 10.0.0.2", "fail", "driver too old"),
        (second(gpus=FOUND.gpus * 2), "GPUs of 10.0.0.2", "warn", "Ray counts 1, torch sees 2"),
        (second(gpus=(Gpu("RTX 3090", 12 * GB, 25 * GB),)), "GPU memory of 10.0.0.2", "warn", "12.0 GB of 25.0 GB free"),
        (second(memory_free=GB), "memory of 10.0.0.2", "warn", "1.0 GB of 64.0 GB free"),
        (second(shared_memory=GB), "object store of 10.0.0.2", "warn", "1.0 GB free in /dev/shm"),
        (second(object_store=GB / 10), "object store of 10.0.0.2", "warn", "100.0 MB"),
        (second(disk_free=5 * GB), "disk of 10.0.0.2", "warn", "5.0 GB free"),
        (second(disk_free=GB // 2), "disk of 10.0.0.2", "fail", "500.0 MB free"),
        (second(skew=-2.5), "clock of 10.0.0.2", "warn", "-2.500 s from the driver's"),
        (second(skew=100.0), "clock of 10.0.0.2", "fail", "+100.000 s from the driver's"),
        (replace(SOUND, unwritten={"10.0.0.2": "can't write"}), "storage", "fail", "s3://runs: 10.0.0.2: can't write"),
        (replace(SOUND, wires=[Wire("a", "b", 1e7)]), "network a → b", "warn", "10.0 MB/s"),
        (replace(SOUND, unplaced="can't place generator"), "placement", "fail", "can't place generator"),
        (replace(SOUND, token=False), "exposure", "warn", "no token"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_to_do(examined: Examined, name: str, state: str, says: str) -> None:
    (check,) = wrong(examined)
    assert (check.name, check.state) == (name, state)
    assert says in check.found
    assert check.advice


def test_a_private_ray_and_machines_without_gpus_or_shared_memory_are_sound() -> None:
    assert not wrong(replace(SOUND, private=True, token=False))
    bare = Machine("10.0.0.1", None, 0.0, 8 * GB, replace(FOUND, gpus=(), shared_memory=None))
    assert not wrong(replace(SOUND, machines=[bare], wires=[]))
