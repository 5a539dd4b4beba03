"""Over actors: the same lines as in one process, bit for bit; and the driver holds nothing but references and numbers."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray._private import state

from disback_ray.actors import on_ray
from disback_ray.actors.on_ray import OnRay, is_ready, wait
from disback_ray.errors import ClusterError, NonFiniteError


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def assert_equal(tiny: Any, out: Path, other: Path) -> None:
    """Weights of generator and fake score, nodes, figures, pictures: all but where and how long."""
    ours, theirs = tiny.weights(out), tiny.weights(other)
    assert list(ours) == list(theirs)
    assert {"generator/raw.safetensors", "generator/model.safetensors", "path/node-3.safetensors"} < ours.keys()
    assert "checkpoints/backtracking-00000012/fake_score.safetensors" in ours
    for name in ours:
        assert ours[name] == theirs[name], name
    assert tiny.rows(out) == tiny.rows(other)
    for key in ("digest", "metrics", "switches", "pictures"):
        assert read(out)[key] == read(other)[key], key
    for picture in read(out)["pictures"]:
        assert (out / picture["file"]).read_bytes() == (other / picture["file"]).read_bytes(), picture


def left_over(address: str) -> tuple[set[str], set[str]]:
    """Actors that live and placement groups that hold something, for a while."""
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    end = time.monotonic() + 10
    while True:
        actors = {a["ActorClassName"] for a in state.actors().values() if a["State"] != "DEAD"}
        groups = {g["placement_group_id"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"}
        if not actors | groups or time.monotonic() > end:
            return actors, groups
        time.sleep(0.1)


def tensors(value: Any) -> Iterator[Any]:
    """The arrays and tensors in a value, however deep."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from tensors(each)


def test_ring8_over_actors_and_the_driver_sees_no_tensor(
    tiny: Any, ring8: Path, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    called: dict[str, list[tuple[Any, ...]]] = {}
    get, reach = ray.get, OnRay.__getattr__

    def noted_get(*args: Any, **kwargs: Any) -> Any:
        value = get(*args, **kwargs)
        seen.append(value)
        return value

    def noted_call(self: OnRay, method: str) -> Any:
        call = reach(self, method)

        def noted(*args: Any, **kwargs: Any) -> Any:
            called.setdefault(f"{self._name}.{method}", []).append(args)
            return call(*args, **kwargs)

        return noted

    monkeypatch.setattr(ray, "get", noted_get)
    monkeypatch.setattr(OnRay, "__getattr__", noted_call)
    tiny.run("ring8", tmp_path / "run", f"cluster.address={ray_cluster}", in_process=False)
    monkeypatch.undo()

    assert_equal(tiny, tmp_path / "run", ring8)
    assert len(seen) > 200
    assert not list(tensors(seen))
    for name, times in {
        "teacher.score": 4, "path_node.score": 8, "fake_score.score": 12, "fake_score.difference": 12, "generator.descend": 12,
        "fake_score.fit": 20, "evaluator.measure": 6, "evaluator.picture": 5,
    }.items():  # fmt: skip
        assert len(called[name]) == times, name
        for args in called[name]:
            assert all(isinstance(arg, (ray.ObjectRef, str)) for arg in args), name

    seats = read(tmp_path / "run")["roles"]
    assert set(seats) == {"teacher", "path_node", "fake_score", "generator", "evaluator"}
    assert len({seat["pid"] for seat in seats.values()} | {os.getpid()}) == 6, "each in a process of its own"
    promised = [(seat["node"], device) for name, seat in seats.items() for device in seat["devices"]]
    assert len(promised) == 4, "four GPUs for four roles"
    assert seats["evaluator"]["devices"] == []
    assert left_over(ray_cluster) == (set(), set())


def test_replicas_and_micro_batches_over_actors(tiny: Any, ray_cluster: str, tmp_path: Path) -> None:
    """Two of each target, which take turns, and two micro-batches: the same as two micro-batches in one process."""
    here, there = tmp_path / "here", tmp_path / "there"
    tiny.run("ring8", here, "micro_batches=2")
    targets = ["cluster.roles.teacher.replicas=2", "cluster.roles.path_node.replicas=2"]
    tiny.run("ring8", there, "micro_batches=2", f"cluster.address={ray_cluster}", *targets, in_process=False)
    assert_equal(tiny, there, here)
    seats = read(there)["roles"]
    assert {"teacher/0", "teacher/1", "path_node/0", "path_node/1"} < set(seats)
    assert len({seat["pid"] for seat in seats.values()}) == 7


def test_digits_over_actors(tiny: Any, digits: Path, ray_cluster: str, tmp_path: Path) -> None:
    tiny.run("digits", tmp_path / "run", f"cluster.address={ray_cluster}", in_process=False)
    assert_equal(tiny, tmp_path / "run", digits)


def test_a_role_killed_ends_the_run_with_one_line_and_the_same_command_goes_on(
    tiny: Any, command: Callable[..., Any], ray_cluster: str, tmp_path: Path
) -> None:
    out, more = tmp_path / "run", ["backtracking.steps=400", "checkpoint_every=20", "evaluation.every=400"]
    words = [word for setting in [*more, f"cluster.address={ray_cluster}"] for word in ("--set", setting)]
    killed: list[int] = []

    def kill() -> None:
        while not list(out.glob("checkpoints/backtracking-*/manifest.json")):
            time.sleep(0.02)
        killed.append(read(out)["roles"]["path_node"]["pid"])
        os.kill(read(out)["roles"]["fake_score"]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    said = command(*tiny.arguments("ring8", out, *words))
    killer.join(5)
    complaints = [line for line in said.err.splitlines() if line.startswith("disback-ray: ")]
    assert (said.status, len(complaints)) == (2, 1)
    assert "fake_score" in complaints[0]
    assert "run the same command again to go on from the last checkpoint" in complaints[0]
    assert "Traceback" not in said.err
    assert (read(out)["status"], f"disback-ray: {read(out)['error']}") == ("failed", complaints[0])
    assert (out / "report.html").exists()
    assert left_over(ray_cluster) == (set(), set())
    ray.shutdown()

    said = command(*tiny.arguments("ring8", out, *words))
    assert said.status == 0
    tiny.run("ring8", tmp_path / "whole", *more)
    assert read(out)["digest"] == read(tmp_path / "whole")["digest"]
    assert tiny.rows(out) == tiny.rows(tmp_path / "whole")


# -- the proxy itself --


class Role:
    def __init__(self, **errors: Exception) -> None:
        self.errors = errors

    def double(self, x: Any) -> Any:
        return x * 2

    def threads(self) -> int:
        return torch.get_num_threads()

    def fail(self, name: str) -> None:
        raise self.errors[name]

    def slow(self) -> str:
        time.sleep(1)
        return "done"

    def die(self) -> None:
        os._exit(1)


def test_values_errors_and_order(attached: str) -> None:
    role = OnRay("teacher", options={"num_cpus": 0}, threads=3)
    ours = NonFiniteError("the score has NaN: lower its lr")
    wait(role._actor.build.remote(Role, {"nan": ours, "bug": ZeroDivisionError("a bug")}))
    first = role.double(torch.arange(3))
    assert isinstance(first, ray.ObjectRef)
    assert wait(role.double(first)).tolist() == [0, 4, 8], "a reference is an argument like another"
    assert wait([role.threads(), (first, [])])[0] == 3
    with pytest.raises(NonFiniteError) as raised:
        wait([first, [role.fail("nan")]])
    assert str(raised.value) == str(ours)
    with pytest.raises(NonFiniteError, match="lower its lr"):
        wait(role.double(role.fail("nan")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        wait(role.fail("bug"))
    late = role.slow()
    assert not is_ready([first, (late, [])])
    assert is_ready([first])
    assert wait(late) == "done"
    assert is_ready([first, (late, [])])


def test_a_lost_process_is_one_line(attached: str) -> None:
    role = OnRay("generator", options={"num_cpus": 0}, threads=1)
    wait(role._actor.build.remote(Role, {}))
    lost = role.die()
    for later in (lost, role.double(1), role.double(lost)):
        with pytest.raises(ClusterError) as raised:
            wait(later)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith("a role's process was lost: ")
        assert len(str(raised.value)) < 500
        assert raised.value.__cause__ is None
