"""Somebody else's objects fill Ray's store: the run's own spill to the disk, or, where that is full as well, one line says so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import ray as typed_ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from benchmarks.chaos.runs import Outcome, Stage
from disback_ray.errors import DisbackError

ray: Any = typed_ray

STORE_BYTES = 100 << 20
LARGE = ("batch=32768", "recording.steps=8", "recording.at=[2,5,8]", "backtracking.steps=12", "backtracking.steps_per_node=4")
"""Samples of 256 KB: smaller results never see the store. checkpoint_every is as before."""
NO_DISK = {"RAY_local_fs_capacity_threshold": "0.0001"}
"""To Ray, a disk is full from there on."""


def store(stage: Stage) -> Iterator[Outcome]:
    truth = stage.truth_of(*LARGE)
    found = Outcome("a full object store, which spills", injected=1)
    with full():
        stage.play(found, *LARGE, truth=truth)
    yield found
    found, folder = Outcome("a full object store, and no disk to spill to", injected=1), stage.new_folder()
    with full(**NO_DISK) as held:
        try:
            stage.run(*LARGE, folder=folder)
            found.expect(False, "the store was not full")
        except DisbackError as error:
            found.said.append(str(error))
            found.expect("object store is full" in str(error), f"it said: {str(error)[:300]}")
        held.clear()
        stage.play(found, *LARGE, folder=folder, truth=truth)
    yield found


def filled() -> list[Any]:
    """Holds what there is of the store, but for less than one batch of samples."""
    held = [ray.get(ray.put(np.zeros(STORE_BYTES // 20, np.uint8))) for _ in range(19)]
    with suppress(ObjectStoreFullError, OutOfDiskError):
        held += [ray.get(ray.put(np.zeros(STORE_BYTES // 800, np.uint8))) for _ in range(39)]
    return held


@contextmanager
def full(**variables: str) -> Iterator[list[Any]]:
    """A private Ray whose store is held by objects in use, which can't be spilled. → what holds it: once it is cleared there is room."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=STORE_BYTES,
        )  # fmt: skip
        yield filled()
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
