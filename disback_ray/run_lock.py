"""One driver at a time for a run's folder: a file that says whose it is, renewed while that one lives."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from disback_ray.errors import CheckpointError, RunFolderError
from disback_ray.storage import Folder

LOCK = "driver.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A driver on another machine that hasn't renewed its lock for so long is taken to be gone. Machines' clocks may differ by less."""
SETTLE_SECONDS = 0.05


@dataclass(frozen=True)
class Holder:
    """A driver: where it runs, since when its process does, and when it was last heard of.

    key: tells it from all others. folder: the lock's own; in a copy of a run's folder it means nothing.
    """

    host: str
    pid: int
    started: float
    key: str
    folder: str
    heard: float

    def is_gone(self) -> bool:
        """On this machine: no such process, or another one of that number. Elsewhere: silent for too long."""
        if self.host != socket.gethostname():
            return time.time() - self.heard > STALE_SECONDS
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        heard = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.heard))
        return f"process {self.pid} on {self.host}, last heard of at {heard}"


def holder(folder: Folder) -> Holder | None:
    """Whose the folder is at the moment; nobody's where the file is damaged. Raises CheckpointError where that can't be known."""
    if not folder.has(LOCK):
        return None
    try:
        return Holder(**folder.read_json(LOCK))
    except (CheckpointError, TypeError):
        return None


def refuse_if_held(folder: Folder, *, by_other_than: str = "") -> None:
    """Raises RunFolderError where another driver has the folder, CheckpointError where that can't be known."""
    found = holder(folder)
    if found and found.key != by_other_than and found.folder == folder.uri and not found.is_gone():
        raise RunFolderError(f"{folder.uri} is in use by another run ({found}): stop that one, or choose another --out")


class Lock:
    """This process's hold on a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.mine: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time(), "key": uuid.uuid4().hex,
            "folder": folder.uri,
        }  # fmt: skip
        self.ended = threading.Event()

    def renew(self) -> None:
        """Raises CheckpointError."""
        self.folder.write_json(LOCK, asdict(Holder(**self.mine, heard=time.time())))

    def keep(self) -> None:
        """Renews it now and then, until the end. A beat that can't be written is made up for by the next."""
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(CheckpointError):
                self.renew()


@contextmanager
def locked(folder: Folder) -> Iterator[Lock]:
    """The folder is this process's until the block ends. A lock whose driver is gone is taken over.

    Raises RunFolderError where another driver has it, CheckpointError where the storage fails.
    """
    refuse_if_held(folder)
    lock = Lock(folder)
    failure = None
    try:
        lock.renew()
    except CheckpointError as error:  # also where two write it at the same time
        failure = error
    time.sleep(SETTLE_SECONDS)  # two may have begun at the same time: the last one to write has it
    refuse_if_held(folder, by_other_than=lock.mine["key"])
    found = holder(folder)
    if failure and (found is None or found.key != lock.mine["key"]):
        raise failure  # where the lock is ours all the same, the other one of the two has renamed what we wrote
    thread = threading.Thread(target=lock.keep, daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        lock.ended.set()
        thread.join()
        with contextlib.suppress(CheckpointError):
            folder.delete(LOCK)
