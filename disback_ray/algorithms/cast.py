"""The four roles as the algorithms see them.

A role's methods return values that the algorithms pass on and never look inside. In one process they are the values; over Ray
they are references to them, and the roles' work overlaps. A role works through its calls in the order in which they were made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.path import Blend

Later = Any
"""A value, or a reference to one that is still being computed."""

BatchesOf = Callable[[str, int], Sequence[Batch]]
"""(stage, step) → the step's micro-batches."""


class Target(Protocol):
    """A frozen score: the teacher, or a node of the path."""

    def score(self, sample: Later) -> Later: ...


class PathNode(Target, Protocol):
    def prefetch(self, node: int) -> Later: ...

    def load(self, node: int, left: int | None = None) -> Later: ...

    def score(self, sample: Later, *, node: int | None = None) -> Later: ...

    def score_at(self, probe: Later, *, at_once: int) -> Later: ...


class FakeScore(Protocol):
    def score(self, sample: Later) -> Later: ...

    def difference(
        self, current: Later, wanted: Later, left: Later = None, *, node: int, blend: Blend | None = None
    ) -> Later: ...

    def fit(self, sample: Later) -> Later: ...

    def commit(self, step: int) -> Later: ...

    def learn(self, *samples: Later, step: int, update: int = 0) -> Later: ...

    def skip(self, step: int) -> Later: ...

    def keep_node(self, node: int, *, step: int) -> Later: ...

    def unlearnt(self, batch: Batch) -> Later: ...


class Generator(Protocol):
    def propose(self, batch: Batch) -> Later: ...

    def descend_all(self, *fields: Later, step: int) -> Later: ...

    def skip(self, step: int) -> Later: ...


@dataclass(frozen=True)
class Cast:
    """Who plays in both algorithms: the teacher s_θ, a path node s_θ'_i, the fake score s_φ and the generator G_stu."""

    teacher: Target
    path_node: PathNode
    fake_score: FakeScore
    generator: Generator


@dataclass(frozen=True)
class Step:
    """One step that has been submitted. node: the target (backtracking), or the newest node (recording).

    results: one `{name: number}` for each call that changes a role, later. Waiting for them is where errors surface.
    """

    stage: str
    step: int
    node: int
    results: tuple[Later, ...]
