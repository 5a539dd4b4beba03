"""A comparison as one page of HTML that needs nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from disback_ray.comparison.arms import MEANINGS
from disback_ray.comparison.outcome import NEVER, Outcome, Reached
from disback_ray.report.chart import Series, chart, number
from disback_ray.report.figures import MEASURES

TEMPLATE = "page.html.jinja"
COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Cell:
    """One arm at one level, in words."""

    steps: str
    spread: str
    seconds: str
    faster: str
    pairs: str


def render(
    found: Outcome, *, recipe: str, summary: str, command: str, goals: Sequence[tuple[str, bool]] = (),
    meanings: Mapping[str, str] = MEANINGS, measured_by: Mapping[str, str] = MappingProxyType({}),
) -> str:  # fmt: skip
    """The page: a sentence for each arm, the table, the curves. All text is escaped."""
    measure = MEASURES[found.figure]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        recipe=recipe,
        summary=summary,
        command=command,
        measure=measure,
        measured_by="; ".join(f"{what}: {told}" for what, told in measured_by.items()),
        style=Markup(files("disback_ray.report").joinpath("style.css").read_text(encoding="utf-8")),
        sentences=[*(sentence(found, arm) for arm in found.arms if arm != "baseline"), *found.lost, *found.swayed()],
        goals=goals,
        levels=[f"{level:g}" for level in found.levels],
        rows=[(arm, meanings[arm], [cell(found.at(arm, level)) for level in found.levels]) for arm in found.arms],
        legend=list(_colours(found).items()),
        curves=[_chart(found, log=True), *([_each(found)] if len(found.seeds) > 1 else [])],
        seeds=len(found.seeds),
        cost="{:.2f} ({:.2f} – {:.2f})".format(found.cost, *found.cost_range),
        recorded=max(curve.recorded for curve in found.curves),
    )


def sentence(found: Outcome, arm: str) -> str:
    """What an arm came to at the last level that anybody reached, against the baseline."""
    level = next((lv for lv in reversed(found.levels) if any(found.at(a, lv).median < NEVER for a in found.arms)), None)
    if level is None:
        return f"{arm}: no arm reached any of the levels in half of its runs."
    reached = found.at(arm, level)
    if reached.speedup is None:
        return f"{arm}: neither it nor the baseline reached {level:g}."
    if reached.median == NEVER:
        share = "half" if 2 * reached.unfinished == len(reached.steps) else "most"
        theirs = found.at("baseline", level)
        return (
            f"{arm}: {share} of its runs never came to {level:g} ({reached.unfinished} of {len(reached.steps)}); "
            f"of the baseline's {theirs.unfinished} of {len(theirs.steps)} never did."
        )
    low, high = min(reached.speedups), max(reached.speedups)
    verdict = "faster" if low > 1 else "slower" if high < 1 else "not told apart from the baseline: pairs fall on both sides"
    return (
        f"{arm}: {reached.speedup:.2f} × as fast as the baseline to {level:g}, by charged steps, at the median of "
        f"{len(reached.speedups)} pairs ({low:.2f} – {high:.2f}): {verdict}."
    )


def cell(reached: Reached) -> Cell:
    finite = [step for step in reached.steps if step < NEVER]
    never = f"{reached.unfinished} of {len(reached.steps)} never" if reached.unfinished else ""
    spread = f"{min(finite):,.0f} – {max(finite):,.0f}" if finite else ""
    mine = reached.arm != "baseline"
    return Cell(
        f"{reached.median:,.0f}" if reached.median < NEVER else "never",
        ", ".join(part for part in (spread, never) if part),
        f"{number(reached.median_seconds)} s" if reached.median_seconds < NEVER else "",
        f"{reached.speedup:.2f} ×" if mine and reached.speedup is not None else "",
        f"{min(reached.speedups):.2f} – {max(reached.speedups):.2f}" if mine and reached.speedups else "",
    )


def _chart(found: Outcome, *, log: bool) -> Markup | None:
    """The median run of each arm."""
    lines = []
    for arm, colour in _colours(found).items():
        curves = found.of(arm)
        steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
        values = [statistics.median(curve.values[curve.steps.index(step)] for curve in curves) for step in steps]
        lines.append(Series(arm, _at(curves[0].charged(step, cost=found.cost) for step in steps), np.array(values), colour))
    return chart(lines, label=f"median {MEASURES[found.figure].name} over charged steps", log=log, levels=_levels(found))


def _each(found: Outcome) -> Markup | None:
    """Every run."""
    lines = [
        Series(arm, _at(curve.charged(step, cost=found.cost) for step in curve.steps), np.array(curve.values), colour)
        for arm, colour in _colours(found).items()
        for curve in found.of(arm)
    ]
    return chart(lines, label=f"{MEASURES[found.figure].name} of every run over charged steps", log=True, levels=_levels(found))


def _colours(found: Outcome) -> dict[str, str]:
    """Each arm's; of more arms than colours, some share one."""
    return {arm: COLOURS[number % len(COLOURS)] for number, arm in enumerate(found.arms)}


def _at(steps: object) -> np.ndarray:
    return np.array(list(steps))  # type: ignore[call-overload]


def _levels(found: Outcome) -> list[tuple[str, float]]:
    return [(f"{level:g}", level) for level in found.levels]
