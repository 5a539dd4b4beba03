"""What `path: auto` costs beside the best of the three arms, regime by regime: those where the path helps and those where it doesn't.

`python -m benchmarks.auto_path --seeds 3 --out runs/auto-path --json FILE`, or only some with --only NAME,…: see REGIMES. The same call
goes on where it was left; each regime's folder has the curves.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks import Result, command, measured, options, publish
from disback_ray.comparing import compare
from disback_ray.comparison.arms import PAPER
from disback_ray.comparison.outcome import NEVER, Outcome
from disback_ray.comparison.told import lines

AT_THE_MEDIAN, AT_WORST = 1.10, 1.5


@dataclass(frozen=True)
class Regime:
    """A recipe, what is changed in it, how often it is looked at, and the levels that its arms are timed to."""

    recipe: str
    settings: tuple[str, ...]
    every: int
    levels: tuple[float, ...]


def _rates(generator: float, fake_score: float) -> tuple[str, ...]:
    return f"backtracking.generator.lr={generator}", f"backtracking.fake_score.lr={fake_score}"


STEADY = ("backtracking.generator.decay_after=1.0",)
RING_TEACHER = ("teacher.training.steps=1300", "teacher.training.ema=0.995", "teacher.training.optimiser.lr=2e-3")
TEACHERS_NETWORK = ("student.network=teacher",)


def _ring(sigma: float, steps: int, *more: str, levels: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Regime:
    changed = (f"backtracking.noise.sigma_max={sigma}", f"backtracking.steps={steps}", "backtracking.steps_per_node=40")
    return Regime("ring8", (*RING_TEACHER, *changed, *more), 25, levels)


REGIMES: Mapping[str, Regime] = {
    "ring8-2": _ring(2.0, 700, *_rates(2e-4, 5e-4), *STEADY),
    "ring8-2-quick": _ring(2.0, 300, *_rates(1e-3, 2e-3), *STEADY),
    "ring8-1": _ring(1.0, 900, *_rates(2e-4, 5e-4), *STEADY),
    "ring8-1-quick": _ring(1.0, 300, *_rates(1e-3, 2e-3), *STEADY),
    "ring8-teacher": _ring(1.0, 900, *_rates(2e-5, 5e-5), *STEADY, *TEACHERS_NETWORK),
    "ring8-teacher-quick": _ring(1.0, 400, *_rates(1e-4, 2e-4), *STEADY, *TEACHERS_NETWORK),
    "ring8-full": _ring(10.0, 600, *_rates(2e-4, 5e-4), *STEADY),
    "ring8-full-quick": _ring(10.0, 300, *_rates(1e-3, 2e-3), *STEADY),
    "grid25": Regime("grid25", (*_rates(3e-4, 6e-4), *STEADY), 25, (0.3, 0.2)),
    "grid25-quick": Regime("grid25", (*_rates(1e-3, 2e-3), *STEADY), 25, (0.3, 0.2)),
    "digits": Regime("digits", _rates(1e-4, 2e-4), 25, (30.0, 10.0)),
    "digits-quick": Regime("digits", _rates(3e-4, 6e-4), 25, (30.0, 10.0)),
    "digits-no-classes": Regime("digits", ("data.conditional=false", *_rates(1e-4, 2e-4)), 25, (30.0, 10.0)),
    "digits-no-classes-quick": Regime("digits", ("data.conditional=false", *_rates(3e-4, 6e-4)), 25, (30.0, 10.0)),
    "digits-paper": Regime("digits-paper", ("backtracking.steps=500", *_rates(3e-5, 3e-5)), 20, (300.0, 100.0, 70.0, 50.0)),
    "digits-paper-quick": Regime("digits-paper", ("backtracking.steps=500", *_rates(1e-4, 1e-4)), 20, (300.0, 100.0, 70.0, 50.0)),
}


def against_best(name: str, found: Outcome) -> list[Result]:
    """Auto's median of charged steps to each level over that of the arm with the least of them.

    A level that none of those arms reaches in half of its runs or more is left out. Where auto alone doesn't, the steps that it made
    stand in for those it would have needed, and the goal counts as missed.
    """
    rows = []
    for level in found.levels:
        best = min((found.at(arm, level) for arm in PAPER), key=lambda reached: reached.median)
        auto = found.at("auto", level)
        if best.median == NEVER:
            continue
        made = statistics.median(curve.charged(curve.steps[-1], cost=found.cost) for curve in found.of("auto"))
        what = f"{name}, {found.figure} {level:g}, auto against {best.arm}"
        steps = min(auto.median, made)
        row = measured(
            what if auto.median < NEVER else f"{what} (never)", steps, "steps", baseline=max(best.median, 1.0), at_most=AT_WORST
        )
        rows.append(row if auto.median < NEVER else replace(row, met=False))
    return rows


def main() -> None:
    parser = options("What path: auto costs beside the best of baseline, warm and disback.")
    parser.add_argument("--only", default="", metavar="REGIME,...", help=f"some of {', '.join(REGIMES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/auto-path")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(REGIMES)
    if unknown := [name for name in names if name not in REGIMES]:
        parser.error(f"--only {', '.join(unknown)}: expected some of {', '.join(REGIMES)}")
    rows, recorded = [], {}
    for name in names:
        regime = REGIMES[name]
        found, _ = compare(
            regime.recipe, arms=(*PAPER, "auto"), seeds=given.seeds, overrides=regime.settings, levels=regime.levels, every=regime.every,
            out=f"{given.out}/{name}",
        )  # fmt: skip
        print(name, *lines(found), sep="\n")
        rows += against_best(name, found)
        recorded[name] = f"{sum(curve.recorded > 0 for curve in found.of('auto'))} of {given.seeds}"
    ratios = [row.ratio for row in rows if row.ratio is not None]
    if ratios:
        rows.append(measured("all of them, at the median", statistics.median(ratios), "×", at_most=AT_THE_MEDIAN))
    publish("auto_path", rows, file=given.json, path_recorded=recorded, folder=given.out)


if __name__ == "__main__":
    command(main)
