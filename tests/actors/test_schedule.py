"""Over actors that take their time, one step ahead of the results: bit for bit what the same calls give one after the other."""

import random
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from disback_ray.actors import on_ray
from disback_ray.actors.on_ray import Replicas
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.path import switches
from disback_ray.following import AHEAD


def slowed(role: Any) -> Any:
    """The role's class, each of whose calls takes up to 8 ms longer, as it happens."""

    class Slow(role):  # type: ignore[misc]  # in here, it travels by value: the workers can't import this file
        def __getattribute__(self, name: str) -> Any:
            if name in ("propose", "descend", "score", "difference", "learn", "descend_all", "commit"):
                time.sleep(random.random() * 0.008)
            return super().__getattribute__(name)

    return Slow


VARIANTS = {
    "micro-batches": {"micro_batches": 4},
    "several updates, learnt late, targets blended": {"micro_batches": 2, "staleness": 2, "fake_updates": 2, "blend": 2},
    "fused, bf16": {"micro_batches": 3, "fused": True, "wire": "bf16"},
}


def test_the_pipelined_run_is_the_lock_step_run(troupe: Any, stage_of: Any, attached: str) -> None:
    troupe.record(troupe.cast())
    plan = switches(3, (2, 2), total=troupe.steps)
    digests = set()
    for variant, changes in VARIANTS.items():
        changed = troupe.but(**changes)
        lock_step = changed.cast()
        lock_step.fake_score.begin(backtracking.STAGE, node=3)
        expected = [numbers(step.results) for step in changed.play(lock_step, plan)]

        parts = {name: (slowed(role), arguments) for name, (role, arguments) in changed.parts().items()}
        cast, recovery = stage_of(parts, teacher=2)
        pending, found = deque[Any](), []
        recovery.wait(cast.fake_score.begin(backtracking.STAGE, node=3))
        for step in changed.play(cast, plan):
            pending.append(step)
            if len(pending) > AHEAD:
                found.append(numbers(recovery.wait(pending.popleft().results)))
        found += [numbers(recovery.wait(step.results)) for step in pending]

        assert found == expected, variant
        ends = [recovery.wait(cast.generator.digest()), recovery.wait(cast.fake_score.digest())]
        assert ends == [lock_step.generator.digest(), lock_step.fake_score.digest()], variant
        digests |= set(ends)
    assert len(digests) == 6, "each variant is a computation of its own"


def numbers(results: Any) -> list[Any]:
    """What the calls of a step told, without the empty answers."""
    told = [part for result in results for part in (result if isinstance(result, list) else [result])]
    return [part for part in told if part]


class Scorer:
    """A replica that is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score(self, sample: int) -> Any:
        self.asked.append(sample)
        return SimpleNamespace(note=sample)


class Learner:
    """A role of several ranks that notes what it is asked for."""

    def learn(self, *samples: int, step: int) -> tuple[int, ...]:
        return (*samples, step)


def test_each_rank_learns_the_micro_batches_that_it_has_scored() -> None:
    assert Replicas([Learner()], ranks=2).learn(0, 1, 2, 3, step=7) == [(0, 2, 7), (1, 3, 7)]


def test_the_least_busy_replica_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is behind is left alone until it has caught up."""
    done: set[int] = set()
    monkeypatch.setattr(
        on_ray.ray, "wait", lambda asked, **_: ([a for a in asked if a in done], [a for a in asked if a not in done])
    )
    slow, fast = Scorer(), Scorer()
    team = Replicas([slow, fast])
    for sample in range(4):
        team.score(sample)
    assert (slow.asked, fast.asked) == ([0, 2], [1, 3]), "equally busy, they take turns"
    done |= {1, 3}
    team.score(4)
    team.score(5)
    assert fast.asked == [1, 3, 4, 5]
    done |= {0, 2, 4}
    team.score(6)
    assert slow.asked == [0, 2, 6]
