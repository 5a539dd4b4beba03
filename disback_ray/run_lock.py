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
from pathlib import Path
from typing import Annotated, Any

import psutil
from annotated_types import Ge, Le
from pydantic import TypeAdapter

from disback_ray.errors import CheckpointError, RunFolderError
from disback_ray.storage import Folder

LOCK = "driver.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A driver on another machine that hasn't renewed its lock for so long is taken to be gone. Machines' clocks may differ by less."""
SETTLE_SECONDS = 0.05

Seconds = Annotated[float, Ge(0), Le(1e11)]


@dataclass(frozen=True)
class Holder:
    """A driver: where it runs, since when its process does, and when it was last heard of.

    processes: those that it can see, and be seen by: not those of another container, whatever it calls its host.
    key: tells it from all others. folder: the lock's own; in a copy of a run's folder it means nothing.
    """

    host: str
    processes: str
    pid: Annotated[int, Ge(1), Le(2**31 - 1)]
    started: Seconds
    key: str
    folder: str
    heard: Seconds

    def is_gone(self) -> bool:
        """Among the processes here: no such one, or another one of that number. Elsewhere: silent for too long, by either's clock."""
        if (self.host, self.processes) != (socket.gethostname(), _processes()):
            return abs(time.time() - self.heard) > STALE_SECONDS
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        heard = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.heard))
        host = "".join(letter for letter in self.host if letter.isprintable())
        return f"process {self.pid} on {host}, last heard of at {heard}"


_HOLDER = TypeAdapter(Holder)


def _processes() -> str:
    """The start of this machine and the PID namespace in it; nothing where the system tells of neither."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text('ascii').strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def holder(folder: Folder) -> Holder | None:
    """Whose the folder is at the moment; nobody's where the file is damaged. Raises CheckpointError where that can't be known."""
    if not folder.has(LOCK):
        return None
    try:
        return _HOLDER.validate_json(folder.read(LOCK), strict=True)
    except (CheckpointError, ValueError):  # pydantic's errors are ValueErrors
        return None


def refuse_if_held(folder: Folder, *, by_other_than: str = "") -> None:
    """Raises RunFolderError where another driver has the folder, CheckpointError where that can't be known."""
    found = holder(folder)
    if found and found.key != by_other_than and found.folder == folder.uri and not found.is_gone():
        raise RunFolderError(f"{folder.uri} is in use by another run ({found}): stop that one, or choose another --out")


class Lock:
    """This process's hold on a folder. lost: it was found to be so when it was to be renewed."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.mine: dict[str, Any] = {
            "host": socket.gethostname(), "processes": _processes(), "pid": os.getpid(),
            "started": psutil.Process().create_time(), "key": uuid.uuid4().hex, "folder": folder.uri,
        }  # fmt: skip
        self.ended, self.lost = threading.Event(), threading.Event()
        self.renewed = time.monotonic()

    def renew(self) -> None:
        """Raises CheckpointError."""
        self.folder.write_json(LOCK, asdict(Holder(**self.mine, heard=time.time())))
        self.renewed = time.monotonic()

    def is_lost(self) -> bool:
        """Whether another driver has taken the folder over, which thought that this one was gone; it may have ended since."""
        if self.lost.is_set():
            return True
        try:
            found = holder(self.folder)
        except CheckpointError:
            return False
        if found is None:
            return time.monotonic() - self.renewed > STALE_SECONDS
        return bool(found.key != self.mine["key"])

    def require(self) -> None:
        """Raises RunFolderError where it is lost: whoever has it now writes there, and nobody else."""
        if self.is_lost():
            raise RunFolderError(
                f"{self.folder.uri} was taken over by another run ({holder(self.folder) or 'which has ended'}) while this one gave no "
                "sign of life: this one ends here"
            )

    def keep(self) -> None:
        """Renews it now and then, until the end or until it is lost. A beat that can't be written is made up for by the next."""
        while not self.ended.wait(BEAT_SECONDS) and not self.lost.is_set():
            if self.is_lost():
                self.lost.set()
                continue
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
            if not lock.is_lost():
                folder.delete(LOCK)
