"""Over actors: the same lines as in one process, bit for bit; and the driver holds nothing but references and numbers."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from disback_ray.actors.on_ray import OnRay, is_ready, wait
from disback_ray.errors import ClusterError, NonFiniteError


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


def test_over_actors_with_replicas_and_micro_batches_the_driver_sees_no_tensor(
    tiny: Any, ray_cluster: str, left_over: Callable[[str], set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of each target, and two micro-batches a step: the same as two micro-batches in one process."""
    here, there = tmp_path / "here", tmp_path / "there"
    tiny.run("ring8", here, "micro_batches=2", seed=7)
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
            called.setdefault(f"{self._name}.{method}", []).append((self, *args))
            return call(*args, **kwargs)

        return noted

    with monkeypatch.context() as patched:
        patched.setattr(ray, "get", noted_get)
        patched.setattr(OnRay, "__getattr__", noted_call)
        targets = ["cluster.roles.teacher.replicas=2", "cluster.roles.path_node.replicas=2"]
        tiny.run("ring8", there, "micro_batches=2", f"cluster.address={ray_cluster}", *targets, in_process=False, seed=7)

    tiny.assert_equal(there, here)
    assert len(seen) > 100
    assert not list(tensors(seen))
    for name, times in {
        "teacher.score": 8, "path_node.score": 16, "fake_score.score": 24, "fake_score.difference": 24, "generator.descend": 24,
        "fake_score.fit": 40, "evaluator.measure": 8, "evaluator.picture": 5,
    }.items():  # fmt: skip
        assert len(called[name]) == times, name
        for _, *args in called[name]:
            assert all(isinstance(arg, (ray.ObjectRef, str)) for arg in args), name
    for name in ("teacher.score", "path_node.score"):
        assert len({proxy for proxy, *_ in called[name]}) == 2, "both score"

    seats = tiny.summary(there)["roles"]
    assert set(seats) == {"teacher/0", "teacher/1", "path_node/0", "path_node/1", "fake_score", "generator", "evaluator"}
    assert len({seat["pid"] for seat in seats.values()} | {os.getpid()}) == 8, "each in a process of its own"
    assert [len(seat["devices"]) for seat in seats.values()] == [1, 1, 1, 1, 1, 1, 0]
    assert not left_over(ray_cluster)


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


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_values_errors_and_order(attached: str) -> None:
    role = OnRay("teacher", Role, options={"num_cpus": 0}, threads=3)
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
    role = OnRay("generator", Role, options={"num_cpus": 0}, threads=1)
    wait(role._actor.build.remote(Role, {}))
    lost = role.die()
    for later in (lost, role.double(1), role.double(lost)):
        with pytest.raises(ClusterError) as raised:
            wait(later)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith("a role's process was lost: ")
        assert "class_name: Role" in str(raised.value)
        assert len(str(raised.value)) < 500
        assert raised.value.__cause__ is None
