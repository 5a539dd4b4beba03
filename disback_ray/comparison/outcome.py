"""When each arm reached which level, against the baseline: medians, spread and pairs. A run that didn't counts against its arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from disback_ray.comparison.curves import Curve, recording_cost, recording_costs

NEVER = math.inf
LEVELS = 4
SWAYED = 1.05
ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


@dataclass(frozen=True)
class Reached:
    """One arm and one level. steps: charged, seed by seed, NEVER where the run ended before; seconds: of training, likewise.

    speedups: the baseline's steps over this arm's, seed by seed. Where only the baseline never came there, the steps that it made
    count for it, and the true ratio is larger; where only the arm never came there it is 0; where neither did, the pair is left out.
    """

    arm: str
    level: float
    steps: tuple[float, ...]
    seconds: tuple[float, ...]
    speedups: tuple[float, ...]

    @property
    def unfinished(self) -> int:
        return sum(step == NEVER for step in self.steps)

    @property
    def median(self) -> float:
        """NEVER where half of the runs or more didn't come there."""
        return statistics.median(self.steps)

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def speedup(self) -> float | None:
        """Of the pairs of which at least one came there."""
        return statistics.median(self.speedups) if self.speedups else None

    def meets(self, goal: float) -> bool:
        """Whether it is so many times faster, and more than half of its runs come there: a few pairs don't speak for the rest."""
        return self.median < NEVER and (self.speedup or 0.0) >= goal


@dataclass(frozen=True)
class Outcome:
    """All that a comparison says. cost: of a step of recording, in steps of the generator. curves: of all runs."""

    figure: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    levels: tuple[float, ...]
    cost: float
    reached: tuple[Reached, ...]
    curves: tuple[Curve, ...]

    def at(self, arm: str, level: float) -> Reached:
        return next(found for found in self.reached if (found.arm, found.level) == (arm, level))

    @property
    def lost(self) -> list[str]:
        """The runs that ended before their last step, and why."""
        return [f"{curve.arm}, seed {curve.seed}: never finished: {curve.lost}" for curve in self.curves if curve.lost]

    def of(self, arm: str) -> list[Curve]:
        return [curve for curve in self.curves if curve.arm == arm]

    @property
    def cost_range(self) -> tuple[float, float]:
        """The least and the most that a run's own durations say of the cost: how far what is charged can be trusted."""
        costs = recording_costs(self.curves) or [self.cost]
        return min(costs), max(costs)

    def swayed(self) -> list[str]:
        """The arms whose ratio at the last level moves by more than a twentieth within that range, in words."""
        said = []
        for arm in self.arms:
            levels = [level for level in self.levels if self.at(arm, level).speedup]
            if arm == "baseline" or not levels or not any(curve.recorded for curve in self.of(arm)):
                continue
            dearest, cheapest = (_median_speedup(self, arm, levels[-1], cost) for cost in reversed(self.cost_range))
            if cheapest > SWAYED * dearest:
                low, high = self.cost_range
                said.append(
                    f"{arm} to {levels[-1]:g}: {cheapest:.2f} × if a step of recording costs {low:.2f} of a generator's, as in one run, "
                    f"{dearest:.2f} × if it costs {high:.2f}, as in another"
                )
        return said


def outcome(curves: Sequence[Curve], *, arms: Sequence[str], levels: Sequence[float] = ()) -> Outcome:
    """curves: one of each arm and seed, of the same figure. levels: falling; by default round ones that the runs pass."""
    cost = recording_cost(curves)
    levels = tuple(levels) or default_levels(curves)
    seeds = tuple(sorted({curve.seed for curve in curves}))
    found = {(curve.arm, curve.seed): curve for curve in curves}
    reached = []
    for arm in arms:
        mine = [found[arm, seed] for seed in seeds]
        theirs = [found["baseline", seed] for seed in seeds]
        for level in levels:
            pairs = [_speedup(base, curve, level, cost) for base, curve in zip(theirs, mine, strict=True)]
            steps = tuple(_or_never(curve.reached(level, cost=cost)) for curve in mine)
            seconds = tuple(
                NEVER if step == NEVER else step * (curve.step_seconds or 0.0) for step, curve in zip(steps, mine, strict=True)
            )
            reached.append(Reached(arm, level, steps, seconds, tuple(pair for pair in pairs if pair is not None)))
    return Outcome(curves[0].figure, tuple(arms), seeds, levels, cost, tuple(reached), tuple(curves))


def default_levels(curves: Sequence[Curve]) -> tuple[float, ...]:
    """Round figures from half of the start's down to what the best arm's median run ends at: the last few of them."""
    start = statistics.median(curve.values[0] for curve in curves)
    ends: dict[str, list[float]] = {}
    for curve in curves:
        ends.setdefault(curve.arm, []).append(min(curve.values))
    best = min(statistics.median(end) for end in ends.values())
    powers = range(math.floor(math.log10(max(best, 1e-9))), math.ceil(math.log10(max(start, 1e-9))) + 1)
    round_ones = sorted((float(f"{factor:g}e{power}") for power in powers for factor in ROUND), reverse=True)
    return tuple(level for level in round_ones if best <= level <= start / 2)[-LEVELS:] or (best,)


def _median_speedup(found: Outcome, arm: str, level: float, cost: float) -> float:
    curves = {(curve.arm, curve.seed): curve for curve in found.curves}
    pairs = [_speedup(curves["baseline", seed], curves[arm, seed], level, cost) for seed in found.seeds]
    return statistics.median(pair for pair in pairs if pair is not None)


def _speedup(base: Curve, arm: Curve, level: float, cost: float) -> float | None:
    before, now = base.reached(level, cost=cost), arm.reached(level, cost=cost)
    if now is None:
        return None if before is None else 0.0
    return (before if before is not None else base.charged(base.steps[-1], cost=cost)) / max(now, 1.0)


def _or_never(step: float | None) -> float:
    return NEVER if step is None else step
