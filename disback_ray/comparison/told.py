"""What a comparison says, in rows as benchmarks have them and in lines for a terminal; and the goals that it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from disback_ray.comparison.outcome import NEVER, Outcome
from disback_ray.errors import ConfigError
from disback_ray.measurement import Result, measured
from disback_ray.report.figures import MEASURES


@dataclass(frozen=True)
class Goal:
    """An arm is to reach a level so many times faster than the baseline, at the median of the pairs."""

    arm: str
    level: float
    speedup: float

    @staticmethod
    def parse(text: str) -> Goal:
        """disback:0.3:2. Raises ConfigError."""
        arm, *numbers = text.split(":")
        try:
            level, speedup = (float(number) for number in numbers)
        except ValueError:
            raise ConfigError(f"--goal {text}: expected ARM:LEVEL:SPEEDUP, such as disback:0.3:2") from None
        if not (0 < level < math.inf and 0 <= speedup < math.inf):
            raise ConfigError(f"--goal {text}: expected a level above 0 and a speed-up, such as disback:0.3:2")
        return Goal(arm, level, speedup)


def results(found: Outcome, goals: Sequence[Goal] = ()) -> list[Result]:
    """As benchmarks have it: each arm's charged steps to each level, and its speed-up over the baseline."""
    rows = []
    for level in found.levels:
        for arm in found.arms:
            reached, base = found.at(arm, level), found.at("baseline", level)
            what = f"{arm}, charged steps to {found.figure} {level:g}"
            if reached.unfinished:
                what += f" ({reached.unfinished} of {len(found.seeds)} never)"
            if reached.median < NEVER:
                rows.append(measured(what, reached.median, "steps", baseline=base.median if 0 < base.median < NEVER else None))
            goal = next((g.speedup for g in goals if (g.arm, g.level) == (arm, level)), None)
            if arm != "baseline" and (goal is not None or reached.speedup is not None):
                name = f"{arm}, times faster than baseline to {found.figure} {level:g}"
                if len(reached.speedups) < len(found.seeds):
                    name += f" ({len(reached.speedups)} of {len(found.seeds)} pairs)"
                row = measured(name, reached.speedup or 0.0, "×", at_least=goal)
                rows.append(row if goal is None else replace(row, met=reached.meets(goal)))
    return rows


def lines(found: Outcome, goals: Sequence[Goal] = ()) -> list[str]:
    """The outcome for a terminal."""
    head = f"{'':10}" + "".join(f"{f'to {level:g}':>38}" for level in found.levels)
    rows = [f"charged steps to a {MEASURES[found.figure].name} of …: median (fewest – most) × faster than baseline", head]
    for arm in found.arms:
        cells = [_cell(found, arm, level) for level in found.levels]
        rows.append(f"{arm:10}" + "".join(f"{cell:>38}" for cell in cells))
    rows += [f"goal {'met' if met else 'missed'}: {goal}" for goal, met in goals_met(found, goals)]
    low, high = found.cost_range
    charge = f"a step of recording is charged at {found.cost:.2f} of a generator's, as measured ({low:.2f} – {high:.2f} in one run each)"
    return [*rows, *found.lost, charge, *found.swayed()]


def _cell(found: Outcome, arm: str, level: float) -> str:
    reached = found.at(arm, level)
    never = f", {reached.unfinished} never" if reached.unfinished else ""
    if reached.unfinished == len(reached.steps):
        return "never"
    finite = [step for step in reached.steps if step < NEVER]
    middle = f"{reached.median:.0f}" if reached.median < NEVER else "–"
    faster = "" if arm == "baseline" or reached.speedup is None else f" {reached.speedup:.2f}×"
    if faster and len(reached.speedups) < len(reached.steps):
        faster += f", {len(reached.speedups)} of {len(reached.steps)}"
    return f"{middle} ({min(finite):.0f} – {max(finite):.0f}{never}){faster}"


def goals_met(found: Outcome, goals: Sequence[Goal]) -> list[tuple[str, bool]]:
    """Each goal in words, and whether it holds."""
    return [
        (
            f"{goal.arm} ≥ {goal.speedup:g} × to {goal.level:g}",
            found.at(goal.arm, goal.level).meets(goal.speedup),
        )
        for goal in goals
    ]
