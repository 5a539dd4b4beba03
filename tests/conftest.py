"""One Ray cluster for the whole session, with GPUs that are only pretended. No test can meet a Ray that somebody else runs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or the first private cluster writes a token into the home folder
    os.environ["OMP_NUM_THREADS"] = "1"


class Processes:
    """What runs, by `ps`."""

    def started_by(self, pid: int) -> set[int]:
        """The processes that `pid` started, and those that they did."""
        parents = {int(p): int(parent) for p, parent, _ in self._running()}
        found = {pid}
        while more := {p for p, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {pid}

    def left_of(self, pids: set[int], *, within: float = 15.0) -> set[int]:
        """Those that still run after a while."""
        end = time.monotonic() + within
        while (alive := pids & {int(p) for p, _, _ in self._running()}) and time.monotonic() < end:
            time.sleep(0.05)
        return alive

    def _running(self) -> list[list[str]]:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        return [row for row in map(str.split, listed.stdout.splitlines()) if not row[2].startswith("Z")]


@pytest.fixture(scope="session")
def processes() -> Processes:
    return Processes()


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[str]:
    """Where Ray keeps logs, sockets and the address that `auto` reads. A short path: that of a socket has 107 letters at most."""
    folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="disback-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(ray_folder: str, processes: Processes) -> Iterator[str]:
    """host:port of a cluster: a head with 4 CPUs, and two machines of 2 GPUs and 4 CPUs, 'GeForce-RTX-3090' and 'A10G'."""
    from ray.cluster_utils import Cluster

    before = processes.started_by(os.getpid())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    for accelerator in ("GeForce-RTX-3090", "A10G"):
        cluster.add_node(num_cpus=4, num_gpus=2, labels={"ray.io/accelerator-type": accelerator})
    yield cluster.address
    started = processes.started_by(os.getpid()) - before
    cluster.shutdown()
    assert not processes.left_of(started), "the cluster left processes"


@pytest.fixture
def attached(ray_cluster: str) -> Iterator[str]:
    """The test's driver is connected to the cluster. The same address."""
    from disback_ray.actors.session import attach

    with attach(ray_cluster) as session:
        yield session.address


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    """No test inherits a driver's connection from another."""
    yield
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        ray.shutdown()
