"""What one run of a comparison came to: its main figure over charged steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from disback_ray.algorithms import backtracking, degradation
from disback_ray.errors import ConfigError
from disback_ray.evaluation.alarms import MAIN

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """A run's main figure. steps, values: [K], after how many steps of the generator, from its start on; recorded: steps of recording.

    tried: steps that were undone again (`path: auto`), which are charged in full.
    lost: why it ended before its last step; '' where it didn't. The looks that it then lacks are infinitely far.

    step_seconds, record_seconds: how long one step of each stage took, looks aside; None where there was none.
    """

    arm: str
    seed: int
    figure: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    recorded: int
    step_seconds: float | None
    record_seconds: float | None
    tried: int = 0
    lost: str = ""

    def charged(self, step: int, *, cost: float) -> float:
        """So many steps of the generator, with those of the recording at what one costs, in steps of the generator."""
        return step + self.tried + cost * self.recorded

    def reached(self, level: float, *, cost: float) -> float | None:
        """The charged steps at the first look with a figure of at most `level`; None where there was no such look."""
        first = next((step for step, value in zip(self.steps, self.values, strict=True) if value <= level), None)
        return None if first is None else self.charged(first, cost=cost)


def curve_of(
    arm: str, seed: int, rows: Sequence[Row], figures: Mapping[str, Any], *, due: Sequence[int], undone: Collection[str] = (),
    lost: str = "",
) -> Curve:  # fmt: skip
    """rows: of metrics.parquet; figures: of the summary; undone: stages whose steps were; lost: why the run ended before its last step.

    due: the steps of the looks that count: an arm with a path is looked at when a node is left as well, which others have no chance
    to come to a level by. Raises ConfigError without measures.
    """
    kept = [stage for stage in (backtracking.TRIAL, backtracking.WARM, backtracking.STAGE) if stage not in undone]
    looks = [row for row in rows if row["stage"] in kept]
    begun = figures.get("untrained") or {}
    figure = next((name for name in MAIN if any(row.get(name) is not None for row in [*looks, *([begun] if lost else [])])), None)
    if figure is None:
        raise ConfigError("compare: nothing is measured while this recipe trains: it needs data to be measured against")
    taken = [(int(row["step"]), float(row[figure])) for row in looks if row["step"] in due and row.get(figure) is not None]
    if (start := begun.get(figure)) is not None:
        taken.insert(0, (0, float(start)))
    if lost:
        taken += [(step, math.inf) for step in due if step > taken[-1][0]]
    return Curve(
        arm, seed, figure, tuple(step for step, _ in taken), tuple(value for _, value in taken),
        recorded=sum(row["stage"] == degradation.STAGE for row in rows),
        step_seconds=_duration(rows, backtracking.STAGE),
        record_seconds=_duration(rows, degradation.STAGE),
        tried=sum(row["stage"] in undone for row in rows),
        lost=lost,
    )  # fmt: skip


def recording_costs(curves: Sequence[Curve]) -> list[float]:
    """What a step of recording cost in each run that has both, in steps of the generator: the ratio of their durations."""
    return [curve.record_seconds / curve.step_seconds for curve in curves if curve.record_seconds and curve.step_seconds]


def recording_cost(curves: Sequence[Curve]) -> float:
    """The median of recording_costs: what is charged."""
    return statistics.median(recording_costs(curves) or [1.0])


def _duration(rows: Sequence[Row], stage: str) -> float | None:
    """The lower quartile over steps: looks, and whatever else the machine does, lengthen some of them and shorten none."""
    times = [(row["step"], row["seconds"]) for row in rows if row["stage"] == stage]
    gaps = sorted(later - earlier for (before, earlier), (after, later) in pairwise(times) if after == before + 1)
    return gaps[len(gaps) // 4] if gaps else None
