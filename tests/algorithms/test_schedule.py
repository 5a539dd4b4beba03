"""When the calls of Algorithm 2 run, on roles that work through them in their order and take a known time for each. No Ray, no clock."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from disback_ray.algorithms.backtracking import distribution_backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import switches

WORK = {
    "generator.propose": 100, "generator.descend": 200, "generator.commit": 10,
    "teacher.score": 100, "fake_score.score": 100, "fake_score.difference": 0, "fake_score.learn": 310,
}  # fmt: skip
"""Milliseconds of each role's work in a step, before it is cut into micro-batches."""


@dataclass(frozen=True)
class Ready:
    """A value that will be there at a time."""

    at: float


@dataclass
class Worker:
    """An actor: first in, first out; a call begins when its arguments are there and the call before has ended."""

    name: str
    work: dict[str, float]
    parts: int
    free: float = 0.0
    busy: float = 0.0
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **named: Any) -> Ready:
            whole = self.work[f"{self.name}.{method}"]
            spent = whole if method in ("commit", "learn") else whole / self.parts
            began = max([self.free, *(arg.at for arg in args if isinstance(arg, Ready))])
            self.free = began + spent
            self.busy += spent
            self.spans.setdefault(method, []).append((began, self.free))
            return Ready(self.free)

        return call


class Generator(Worker):
    def descend_all(self, *fields: Ready, step: int) -> Ready:
        """As over Ray: each as soon as it is there."""
        for each in fields:
            self.descend(each)
        return self.commit(step)  # type: ignore[no-any-return]


def played(parts: int, *, steps: int = 12, work: dict[str, float] = WORK, **options: Any) -> tuple[Cast, float]:
    """The cast after so many steps, and how long one takes once the pipeline is full."""
    roles = {name: Worker(name, work, parts) for name in ("teacher", "path_node", "fake_score")}
    roles["generator"] = Generator("generator", work, parts)
    cast = Cast(**roles)  # type: ignore[arg-type]
    ends = [
        max(result.at for result in step.results)
        for step in distribution_backtracking(
            cast, switches(0, 1, total=steps), steps=steps,
            batches_of=lambda stage, step: micro_batches(Batch(0, stage, step, 0, 8), parts), **options,
        )
    ]  # fmt: skip
    full = ends[3:-3]  # neither filling nor catching up
    return cast, (full[-1] - full[0]) / (len(full) - 1)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_step_takes_no_longer_than_the_busiest_role_s_work(parts: int) -> None:
    cast, step = played(parts)
    assert step == pytest.approx(410)
    learning = cast.fake_score.spans["learn"][2]
    descents, proposals = (cast.generator.spans[method][2 * parts : 3 * parts] for method in ("descend", "propose"))
    assert learning[0] < descents[-1][1], "s_φ learns while the generator goes backward"
    if parts > 1:
        scores = cast.fake_score.spans["score"][2 * parts : 3 * parts]
        assert descents[0][0] < scores[-1][1], "the generator goes backward before the last score is taken"
    assert cast.generator.spans["propose"][3 * parts][0] < learning[1], "its next forward pass doesn't wait for s_φ to learn"
    assert proposals[-1][1] <= descents[0][0], "forward passes first: each field waits for its own alone"


@pytest.mark.parametrize(("busiest", "expected"), [("teacher.score", 450), ("generator.descend", 560)])
def test_whichever_role_is_the_busiest_it_never_waits(busiest: str, expected: float) -> None:
    """A target that is slower than all else needs micro-batches to keep it busy while the generator descends."""
    work = WORK | {busiest: 450, "fake_score.learn": 110}
    _, step = played(4, work=work)
    waits = {"teacher.score": 450 + 25 + 50 + 10, "generator.descend": 450 + 100 + 10}[busiest]
    assert expected <= step <= waits + 1e-6


def test_a_fused_forward_pass_takes_a_quarter_off_the_busiest_role() -> None:
    """Its forward pass is a third of a fit: the score's pass is the fit's as well."""
    _, step = played(4, work=WORK | {"fake_score.learn": 210})
    assert step == pytest.approx(310)


def test_staleness_saves_no_time_where_queues_are_first_in_first_out() -> None:
    """What is learnt later takes its time all the same: see docs/scaling.md."""
    assert [played(4, staleness=staleness)[1] for staleness in (0, 1, 2)] == pytest.approx([410] * 3)
