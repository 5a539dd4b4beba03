"""`disback-ray compare`: the same recipe with and without the path, seed by seed, and what each arm took to come how far."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq

from disback_ray.auto_path import undone_stages
from disback_ray.comparison.arms import ARMS, MEANINGS, PAPER, chosen
from disback_ray.comparison.curves import Curve, curve_of
from disback_ray.comparison.outcome import Outcome, outcome
from disback_ray.comparison.page import render
from disback_ray.comparison.told import Goal, goals_met, results
from disback_ray.config import Recipe, load_recipe
from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.measurement import document
from disback_ray.report.figures import MEASURES
from disback_ray.result import RunResult
from disback_ray.run_folder import METRICS, is_run, read_summary, recipe_of
from disback_ray.running import run
from disback_ray.storage import Folder

LOOKS = 60
"""So many looks a run, unless the command says otherwise: they decide how finely a level is timed."""
PAGE, FIGURES = "comparison.html", "comparison.json"
Say = Callable[[str], None]


def compare(
    recipe: str,
    *,
    arms: Sequence[str] = PAPER,
    variants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    seeds: int = 5,
    out: str | None = None,
    overrides: Sequence[str] = (),
    levels: Sequence[float] = (),
    goals: Sequence[Goal] = (),
    every: int | None = None,
    cluster: str | None = None,
    tiny: bool = False,
    fresh: bool = False,
    command: str = "",
    say: Say = print,
) -> tuple[Outcome, Folder]:
    """Plays each arm with each seed, interleaved, and writes comparison.html and comparison.json into `out`.

    Runs that are there already, whole or in part, are gone on with. every: steps between two looks. cluster: play over Ray's actors
    there; None plays in this process, with the same numbers. goals: levels of them are added to `levels`. variants: arms of one's own,
    each with what it changes in the recipe. fresh: play all anew. A run that ends in NaN or Inf never came to a level that it hadn't come
    to before.
    Raises ConfigError where an option can't be, the recipe measures nothing or has no path, and whatever a run raises.
    """
    played = {name: ARMS[name] for name in chosen(arms)} | dict(variants)
    names = tuple(played)
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least one")
    if every is not None and every < 1:
        raise ConfigError(f"--every {every}: at least one step between two looks")
    for level in levels:
        if not 0 < level < math.inf:
            raise ConfigError(f"--levels {level:g}: expected numbers above 0, such as 0.3,0.2")
    for goal in goals:
        if goal.arm not in names:
            raise ConfigError(f"--goal: {goal.arm}: not among the arms, {', '.join(names)}")
    changes = [o for o in overrides if not o.startswith("cluster.")]
    plan = load_recipe(recipe, overrides=changes)
    if not plan.recording.steps:
        raise ConfigError(f"compare: recording.steps: 0: {plan.name} records no path that could be compared")
    for arm in played.values() if not tiny else ():  # what an arm can't be is said before any is played
        load_recipe(recipe, overrides=[*changes, *arm])
    folder = out or f"runs/{plan.name}-comparison"
    if is_run(Folder.at(folder)):
        raise ConfigError(f"--out {folder}: a run lies there, and a comparison holds runs of its own: choose another folder")
    if fresh:
        for page in (PAGE, FIGURES):  # of the runs that are to go
            if Folder.at(folder).has(page):
                Folder.at(folder).delete(page)
    looks = [f"evaluation.every={max(1, plan.backtracking.steps // LOOKS) if every is None else every}", "evaluation.pictures=0"]
    applied = [] if tiny else looks
    curves: list[Curve] = []
    measured_by: dict[str, str] = {}
    for seed in range(seeds):
        for arm in _turned(names, seed):
            place = f"{folder}/seed-{seed}/{arm}"
            try:
                result = run(
                    recipe, cluster=cluster, out=place, seed=seed,
                    overrides=[*overrides, *applied, *played[arm]], in_process=cluster is None, tiny=tiny,
                    fresh=fresh, all_looks=True,
                )  # fmt: skip
                measured_by = _of_one_kind(measured_by, result.summary["measured_by"], place)
                curves.append(_curve(arm, seed, result))
            except NonFiniteError as error:
                curves.append(_lost(arm, seed, place, error))
            except KeyboardInterrupt:
                again = "the same command, without --fresh, goes on" if fresh else "the same command goes on"
                say(f"stopped at seed {seed}, {arm}; what has been played is kept, and {again}")
                raise
            said = curves[-1].lost or f"{MEASURES[curves[-1].figure].name} {curves[-1].values[-1]:.4g}"
            say(f"{len(curves)} of {seeds * len(names)}: {plan.name}, seed {seed}, {arm}: {said}")
    wanted = sorted({*levels, *(goal.level for goal in goals)}, reverse=True)
    found = outcome(curves, arms=names, levels=wanted)
    where = Folder.at(folder)
    meanings = {name: MEANINGS.get(name, ", ".join(changes)) for name, changes in played.items()}
    _write(where, plan, found, goals, command, [*overrides, *applied], meanings, measured_by)
    return found, where


def _turned(names: Sequence[str], seed: int) -> list[str]:
    """Each seed begins with another arm, so that none of them is always first."""
    start = seed % len(names)
    return [*names[start:], *names[:start]]


def _of_one_kind(before: Mapping[str, str], now: Mapping[str, str], place: str) -> dict[str, str]:
    """What the figures of a run on images are figures of. Raises ConfigError where the run before had others: they don't compare."""
    if before and before != now:
        key = next(key for key in (*before, *now) if before.get(key) != now.get(key))
        raise ConfigError(
            f"{place}: its {key}: {now.get(key)}; of the runs before: {before.get(key)}: such figures don't compare"
        )
    return dict(now)


def _curve(arm: str, seed: int, result: RunResult) -> Curve:
    rows = pq.read_table(io.BytesIO(result.folder.read(METRICS))).to_pylist()
    due = _due(recipe_of(result.folder))
    return curve_of(arm, seed, rows, result.metrics, due=due, undone=undone_stages(result.summary["trial"]))


def _due(plan: Recipe) -> list[int]:
    """The steps after which every arm is looked at."""
    total, every = plan.backtracking.steps, plan.evaluation.every
    return [*range(every, total, every), total]


def _lost(arm: str, seed: int, place: str, error: NonFiniteError) -> Curve:
    """Of a run that ended in NaN or Inf. Raises the error itself where that was before the generator was looked at."""
    folder = Folder.at(place)
    if not folder.has(METRICS) or not (left := read_summary(folder))["metrics"].get("untrained"):
        raise error
    due, rows = _due(recipe_of(folder)), pq.read_table(io.BytesIO(folder.read(METRICS))).to_pylist()
    return curve_of(arm, seed, rows, left["metrics"], due=due, undone=undone_stages(left.get("trial") or {}), lost=str(error))


def _write(
    folder: Folder, plan: Recipe, found: Outcome, goals: Sequence[Goal], command: str, settings: Sequence[str], meanings: Mapping[str, str],
    measured_by: Mapping[str, str],
) -> None:  # fmt: skip
    facts: dict[str, Any] = {
        "recipe": plan.name, "settings": list(settings), "seeds": list(found.seeds), "arms": list(found.arms), "figure": found.figure,
        "recording_cost": found.cost, "recording_cost_range": list(found.cost_range), "lost": found.lost, "measured_by": dict(measured_by),
        "reached": [_finite(asdict(reached)) for reached in found.reached],
    }  # fmt: skip
    said = command or f"disback-ray compare {shlex.quote(plan.name)}"
    folder.write_json(FIGURES, document("compare", said, results(found, goals), **facts))
    folder.write(
        PAGE,
        render(
            found,
            recipe=plan.name,
            summary=plan.summary,
            command=said,
            goals=goals_met(found, goals),
            meanings=meanings,
            measured_by=measured_by,
        ).encode(),
    )


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for never."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
