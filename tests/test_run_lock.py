"""A run's folder has one driver at a time; a lock whose driver is gone is no lock."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from disback_ray import run_lock
from disback_ray.errors import RunFolderError
from disback_ray.run_lock import LOCK, Holder, holder, locked, refuse_if_held
from disback_ray.storage import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(tmp_path / "run")


@pytest.fixture
def live(folder: Folder) -> Holder:
    """This very process."""
    started = psutil.Process().create_time()
    return Holder(socket.gethostname(), run_lock._processes(), os.getpid(), started, "theirs", folder.uri, time.time())


def test_a_second_driver_is_refused_until_the_first_one_ends(folder: Folder) -> None:
    with locked(folder):
        with pytest.raises(RunFolderError) as refused, locked(folder):
            pass
        where = f"process {os.getpid()} on {socket.gethostname()}, last heard of at {time.strftime('%Y-%m-%d')}"
        assert str(refused.value).startswith(f"{folder.uri} is in use by another run ({where}")
        assert "\n" not in str(refused.value)
        assert folder.names() == [LOCK], "who was refused leaves the lock"
    assert folder.names() == []
    with locked(folder):
        pass


def test_one_of_two_that_begin_at_the_same_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.5)
    began, outcomes = threading.Barrier(2), list[str]()

    def drive() -> None:
        began.wait()
        try:
            with locked(folder):
                outcomes.append("drove")
                time.sleep(1)
        except RunFolderError:
            outcomes.append("refused")

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["drove", "refused"]


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"started": 0.0}, False),  # its number is another process's by now
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "heard": time.time() - 300}, False),
        ({"host": "elsewhere", "heard": time.time() + 1e6}, False),  # by a clock that nobody can wait for
        ({"processes": "another container's"}, True),
        ({"processes": "another container's", "heard": time.time() - 300}, False),
        ({"processes": "another container's", "pid": 2**22}, True),  # no such process here says nothing about there
        ({"heard": time.time() - 300}, True),  # a process that lives but can't write is still there
        ({"folder": "/another"}, False),  # a copy of a folder in use
    ],
)
def test_whose_lock_counts(folder: Folder, live: Holder, change: dict[str, Any], held: bool) -> None:
    folder.write_json(LOCK, dataclasses.asdict(dataclasses.replace(live, **change)))
    if held:
        with pytest.raises(RunFolderError, match="in use"):
            refuse_if_held(folder)
    else:
        with locked(folder):
            found = holder(folder)
            assert found is not None
            assert found.key != "theirs"


def test_a_killed_driver_s_lock_is_stale(folder: Folder) -> None:
    code = f"""
import os, signal
from disback_ray.run_lock import locked
from disback_ray.storage import Folder
with locked(Folder({folder.uri!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert folder.names() == [LOCK]
    with locked(folder):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"pid": -1}, {"pid": "x"}, {"pid": [1]}, {"pid": 1.5}, {"pid": 1 << 70}, {"started": None}, {"started": float("nan")},
        {"heard": "x"}, {"heard": 1e300}, {"heard": float("nan")}, {"host": None},
    ],
)  # fmt: skip
def test_a_damaged_lock_is_nobody_s(folder: Folder, live: Holder, change: dict[str, Any]) -> None:
    said = json.dumps(dataclasses.asdict(live) | change)
    for text in (said, said[:-5]):
        folder.write(LOCK, text.encode())
        with locked(folder):
            pass


def test_who_was_taken_over_learns_it_and_leaves_the_other_s_lock(
    folder: Folder, live: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.02)
    with locked(folder) as lock:
        lock.require()
        for _ in range(100):  # a beat that had looked just before it would write over the first
            folder.write_json(LOCK, dataclasses.asdict(live))
            if lock.lost.wait(0.2):
                break
        with pytest.raises(RunFolderError, match=f"taken over by another run .process {live.pid} on .* this one ends here"):
            lock.require()
    assert holder(folder) == live, "and it isn't renewed"


def test_who_was_silent_for_too_long_doesn_t_take_back_what_another_one_has_left(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(folder) as lock:
        folder.delete(LOCK)
        lock.require()  # somebody deleted it, but nobody can have thought that this one was gone
        monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.0)
        with pytest.raises(RunFolderError, match=r"was taken over by another run \(which has ended\)"):
            lock.require()
    assert folder.names() == []


def test_a_run_that_was_taken_over_ends_and_writes_nothing_more(
    tiny: Any, folder: Folder, command: Callable[..., Any], live: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, real = 0.02, run_lock.Lock.renew

    def taken(lock: run_lock.Lock) -> None:
        """The second time, another one has it."""
        monkeypatch.setattr(run_lock.Lock, "renew", lambda lock: folder.write_json(LOCK, dataclasses.asdict(live)))
        real(lock)

    monkeypatch.setattr(run_lock, "BEAT_SECONDS", beat)
    monkeypatch.setattr(run_lock.Lock, "renew", taken)
    said = command(*tiny.arguments("ring8", folder.local_path, "--in-process", "--set", "backtracking.steps=4000"))
    assert said.status == 2
    assert "was taken over by another run" in said.err.splitlines()[-1]
    assert holder(folder) == live
    assert not folder.has("summary.json") or folder.read_json("summary.json")["status"] == "running", "as it was when it was lost"
    assert not folder.has("report.html")


def test_it_is_renewed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.02)
    with locked(folder):
        first = holder(folder)
        end = time.monotonic() + 20
        while (now := holder(folder)) == first and time.monotonic() < end:
            time.sleep(0.02)
        assert first is not None
        assert now is not None
        assert now.heard > first.heard


def test_a_run_refuses_a_folder_in_use(tiny: Any, folder: Folder, command: Callable[..., Any], live: Holder) -> None:
    folder.write_json(LOCK, dataclasses.asdict(live))
    said = command(*tiny.arguments("ring8", folder.local_path, "--in-process"))
    assert (said.status, said.out) == (2, "")
    assert f"{folder.uri} is in use by another run (process {os.getpid()}" in said.complaint
    assert folder.names() == [LOCK]
