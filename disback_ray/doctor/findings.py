"""What is found on one machine, by a probe that runs there."""

import importlib.metadata
import platform
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

SHARED_MEMORY = Path("/dev/shm")
PACKAGES = ("disback-ray", "ray", "torch", "numpy", "pyarrow")
"""What has to be the same on all machines: these decide what is computed, and what crosses the wire."""


@dataclass(frozen=True)
class Gpu:
    """As torch sees it. free, total: bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Findings:
    """One machine. Sizes in bytes; shared_memory: free in /dev/shm, None where there is none; clock: seconds since 1970, there.

    skew: seconds by which its clock is ahead of the driver's, once the driver knows; trouble: why torch can't use its GPUs.
    """

    host: str
    python: str
    versions: dict[str, str]
    gpus: tuple[Gpu, ...]
    trouble: str
    memory_free: int
    memory: int
    shared_memory: int | None
    disk_free: int
    clock: float
    skew: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A machine as Ray counts it, with what was found there. promised: GPUs; object_store: bytes; address: where the others reach it."""

    address: str
    accelerator: str | None
    promised: float
    object_store: float
    found: Findings


@dataclass(frozen=True)
class Wire:
    """A tensor's way from one machine to another, through the object store. rate: bytes a second."""

    source: str
    target: str
    rate: float


@dataclass(frozen=True)
class Examined:
    """All that was found. unwritten: machine → why the storage can't be used from there; unplaced: why the cast doesn't fit, or ''.

    token: whether callers of the cluster have to show one; private: the cluster is this process's own, on loopback.
    """

    machines: list[Machine]
    storage: str
    unwritten: dict[str, str] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    unplaced: str = ""
    token: bool = True
    private: bool = True


def look() -> Findings:
    """Looks at the machine that this runs on."""
    memory = psutil.virtual_memory()
    gpus, trouble = _gpus()
    shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    return Findings(
        host=socket.gethostname(), python=platform.python_version(), versions=_versions(), gpus=gpus, trouble=trouble,
        memory_free=memory.available, memory=memory.total, shared_memory=shared,
        disk_free=shutil.disk_usage(tempfile.gettempdir()).free, clock=time.time(),
    )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # disback-ray travels with the run to where it isn't installed
            continue
    return found


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            found.append(Gpu(torch.cuda.get_device_name(index), free, total))
        return tuple(found), ""
    except RuntimeError as error:  # a driver that is too old, a device that has fallen off the bus
        return (), " ".join(str(error).split())[:200]
