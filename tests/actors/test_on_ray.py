"""Over actors: the same lines as in one process, bit for bit; and the driver holds nothing but references and numbers."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from disback_ray.actors.calls import Call
from disback_ray.actors.players import Player
from disback_ray.actors.recovery import Recovery


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
    """Two of each target, and two micro-batches a step: the same as two micro-batches in one process. Nodes small, and blended."""
    here, there = tmp_path / "here", tmp_path / "there"
    settings = ["micro_batches=2", "recording.store=low_rank", "recording.store_rank=2", "backtracking.blend=2"]
    tiny.run("ring8", here, *settings, seed=7)
    seen: list[Any] = []
    called: dict[str, list[tuple[Any, ...]]] = {}
    get, submit = ray.get, Recovery.submit

    def noted_get(*args: Any, **kwargs: Any) -> Any:
        value = get(*args, **kwargs)
        seen.append(value)
        return value

    def noted_call(self: Recovery, player: Player, method: str, *args: Any, **kwargs: Any) -> Call:
        called.setdefault(f"{player.name.partition('/')[0]}.{method}", []).append((player.name, *args))
        return submit(self, player, method, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(ray, "get", noted_get)
        patched.setattr(Recovery, "submit", noted_call)
        targets = ["cluster.roles.teacher.replicas=2", "cluster.roles.path_node.replicas=2"]
        tiny.run("ring8", there, *settings, f"cluster.address={ray_cluster}", *targets, in_process=False, seed=7)

    tiny.assert_equal(there, here)
    assert len(seen) > 100
    assert not list(tensors(seen))
    for name, times in {
        "teacher.score": 8, "path_node.score": 16 + 8, "fake_score.score": 24, "fake_score.difference": 24, "generator.descend": 12,
        "generator.descend_all": 12,
        "fake_score.fit": 16, "fake_score.learn": 12, "evaluator.measure": 8, "evaluator.picture": 5,
    }.items():  # fmt: skip
        assert len(called[name]) == times, name
        for _, *args in called[name]:
            assert all(isinstance(arg, (Call, str)) or arg is None for arg in args), name
    for name in ("teacher.score", "path_node.score"):
        assert len({proxy for proxy, *_ in called[name]}) == 2, "both score"

    seats = tiny.summary(there)["roles"]
    assert set(seats) == {"teacher/0", "teacher/1", "path_node/0", "path_node/1", "fake_score", "generator", "evaluator"}
    assert len({seat["pid"] for seat in seats.values()} | {os.getpid()}) == 8, "each in a process of its own"
    assert [len(seat["devices"]) for seat in seats.values()] == [1, 1, 1, 1, 1, 1, 0]
    assert not left_over(ray_cluster)
