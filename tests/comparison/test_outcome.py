"""Levels, charges and pairs of a comparison, on curves whose answer is known."""

import math
from dataclasses import replace
from typing import Any

import pytest

from disback_ray.comparison.arms import chosen
from disback_ray.comparison.curves import Curve, curve_of, recording_cost
from disback_ray.comparison.outcome import NEVER, default_levels, outcome
from disback_ray.comparison.page import render, sentence
from disback_ray.comparison.told import Goal, goals_met, lines, results
from disback_ray.errors import ConfigError

STEPS = (0, 10, 20, 30)


def curve(arm: str, seed: int, values: tuple[float, ...], *, recorded: int = 0) -> Curve:
    record = 0.1 if recorded else None
    return Curve(arm, seed, "sliced_wasserstein", STEPS, values, recorded, step_seconds=0.2, record_seconds=record)


def test_the_recording_is_charged_at_what_its_steps_took() -> None:
    curves = [curve("baseline", 0, (4, 2, 1, 0.5)), curve("warm", 0, (4, 1, 0.5, 0.2), recorded=8)]
    found = outcome(curves, arms=("baseline", "warm"), levels=(1.0, 0.5))
    assert found.cost == 0.5
    assert [found.at("baseline", level).steps for level in (1.0, 0.5)] == [(20.0,), (30.0,)]
    assert [found.at("warm", level).steps for level in (1.0, 0.5)] == [(14.0,), (24.0,)]
    assert found.at("warm", 1.0).speedup == pytest.approx(20 / 14)
    assert found.at("warm", 1.0).seconds == (pytest.approx(14 * 0.2),)


def test_where_the_cost_is_uncertain_its_range_and_what_it_changes_are_said() -> None:
    """Recording of 8 steps at .25 and .75 of a generator's: 20 steps against 10 + 8 · .25 and 10 + 8 · .75."""
    curves = [curve("baseline", seed, (4, 2, 1, 0.5)) for seed in (0, 1)]
    curves += [
        replace(curve("warm", seed, (4, 1, 1, 1), recorded=8), record_seconds=took) for seed, took in ((0, 0.05), (1, 0.15))
    ]
    found = outcome(curves, arms=("baseline", "warm"), levels=(1.0,))
    assert (found.cost, found.cost_range) == (pytest.approx(0.5), pytest.approx((0.25, 0.75)))
    said = "warm to 1: 1.67 × if a step of recording costs 0.25 of a generator's, as in one run, 1.25 × if it costs 0.75, as in another"
    assert found.swayed() == [said]
    assert lines(found)[-2:] == [
        "a step of recording is charged at 0.50 of a generator's, as measured (0.25 – 0.75 in one run each)", said,
    ]  # fmt: skip
    nearly = [replace(c, record_seconds=c.record_seconds and 0.1 + 0.005 * c.seed) for c in curves]
    assert outcome(nearly, arms=found.arms, levels=(1.0,)).swayed() == [], "14.0 and 14.2 steps"


def test_who_never_comes_there_loses_the_pair() -> None:
    curves = [
        *(curve("baseline", seed, values) for seed, values in enumerate([(4, 3, 3, 3), (4, 1, 1, 1), (4, 3, 3, 3)])),
        *(curve("warm", seed, values) for seed, values in enumerate([(4, 1, 1, 1), (4, 3, 3, 3), (4, 3, 3, 3)])),
    ]
    found = outcome(curves, arms=("baseline", "warm"), levels=(1.0,))
    base, warm = found.at("baseline", 1.0), found.at("warm", 1.0)
    assert base.steps == (NEVER, 10.0, NEVER)
    assert (warm.unfinished, warm.median) == (2, NEVER)
    assert warm.speedups == (3.0, 0.0)  # the baseline's 30 steps stand for it; the third pair says nothing
    assert base.median == math.inf


def test_levels_are_round_and_passed() -> None:
    curves = [curve("baseline", 0, (4, 2, 1, 0.5)), curve("warm", 0, (4, 1, 0.5, 0.19))]
    assert default_levels(curves) == (0.7, 0.5, 0.3, 0.2)


def row(stage: str, step: int, seconds: float, **figures: float) -> dict[str, Any]:
    return {"stage": stage, "step": step, "seconds": seconds, "frechet": None} | figures


def test_a_runs_rows_become_its_curve() -> None:
    rows = [row("recording", 1, 1.0), row("recording", 2, 1.5), row("recording", 3, 2.0)]
    rows += [row("backtracking", 1, 3.0), row("backtracking", 2, 5.0, frechet=7.0), row("backtracking", 3, 26.0)]
    rows += [row("backtracking", 4, 28.0, frechet=6.0)]
    made = curve_of("disback", 1, rows, {"untrained": {"frechet": 9.0}}, due=[2, 4])
    assert (made.steps, made.values, made.recorded) == ((0, 2, 4), (9.0, 7.0, 6.0), 3)
    assert (made.record_seconds, made.step_seconds) == (0.5, 2.0)  # the look after step 2 is no step's duration
    assert recording_cost([made]) == 0.25
    assert made.charged(4, cost=0.25) == 4.75
    with pytest.raises(ConfigError, match="nothing is measured"):
        curve_of("disback", 1, [row("backtracking", 1, 1.0)], {}, due=[1])


def test_looks_at_the_ends_of_nodes_don_t_count() -> None:
    """An arm without nodes has none: at 3 this one is lower than it is at 4."""
    rows = [row("backtracking", step, float(step), frechet=10.0 - step) for step in (1, 2, 3, 4)]
    made = curve_of("disback", 0, rows, {"untrained": {"frechet": 10.0}}, due=[2, 4])
    assert (made.steps, made.values) == ((0, 2, 4), (10.0, 8.0, 6.0))


def test_a_run_that_ended_in_nan_loses_its_pairs() -> None:
    """For what it never came to all the steps count that it was to make, not the few that it made."""
    figures = {"untrained": {"frechet": 9.0}}
    rows = [row("backtracking", 1, 1.0), row("backtracking", 2, 2.0, frechet=7.0), row("backtracking", 3, 3.0)]
    lost = curve_of("baseline", 0, rows, figures, lost="NaN at step 4", due=[2, 4, 6])
    at_once = curve_of("warm", 1, [], figures, lost="NaN at step 0", due=[2, 4, 6])
    assert (lost.steps, lost.values) == ((0, 2, 4, 6), (9.0, 7.0, math.inf, math.inf))
    assert (at_once.figure, at_once.values) == ("frechet", (9.0, math.inf, math.inf, math.inf))
    whole = [row("backtracking", step, float(step), frechet=9.0 - step) for step in (2, 4, 6)]
    curves = [
        lost,
        curve_of("warm", 0, whole, figures, due=[2, 4, 6]),
        curve_of("baseline", 1, whole, figures, due=[2, 4, 6]),
        at_once,
    ]
    found = outcome(curves, arms=("baseline", "warm"), levels=(7.0, 5.0))
    assert found.at("baseline", 5.0).steps == (NEVER, 4.0)
    assert found.at("warm", 7.0).speedups == (1.0, 0.0)
    assert found.at("warm", 5.0).speedups == (6 / 4, 0.0)
    assert found.at("warm", 5.0).seconds == (4 * (curves[1].step_seconds or 0.0), NEVER)
    assert "warm, seed 1: never finished: NaN at step 0" in render(found, recipe="ring8", summary="", command="")
    assert outcome(curves, arms=("baseline", "warm")).levels


def test_warm_is_always_shown() -> None:
    assert chosen(["disback"]) == ("baseline", "warm", "disback")
    with pytest.raises(ConfigError, match="--arms: fast: expected some of baseline"):
        chosen(["fast"])


def test_the_page_says_who_was_faster_and_escapes() -> None:
    curves = [curve(arm, seed, (4, 2, 1, 0.5 + seed / 10)) for arm in ("baseline", "warm") for seed in (0, 1)]
    found = outcome(curves, arms=("baseline", "warm"), levels=(1.0, 0.1))
    page = render(found, recipe="<b>", summary="of & it", command="disback-ray compare x", goals=[("warm ≥ 2 × to 1", False)])
    assert "<b>&lt;b&gt;" not in page
    assert "&lt;b&gt;" in page
    assert "not told apart from the baseline" in page
    assert page.count("<svg") == 2
    assert "2 of 2 never" in page
    assert "missed" in page


def test_the_sentence_says_that_most_runs_never_came_there() -> None:
    """Pairs of 0, 0, 0, 0 and 1.9 'fall on both sides': but four of five runs never arrive."""
    curves = [curve("baseline", seed, (4, 3, 2, 0.5)) for seed in range(5)]
    curves += [curve("warm", seed, (4, 4, 0.5, 0.5) if seed == 0 else (4, 4, 4, 4)) for seed in range(5)]
    curves += [curve("disback", seed, (4, 4, 0.5, 0.5) if seed < 3 else (4, 4, 4, 4)) for seed in range(5)]
    found = outcome(curves, arms=("baseline", "warm", "disback"), levels=(0.5,))
    assert found.at("warm", 0.5).speedups == (1.5, 0, 0, 0, 0)
    assert sentence(found, "warm") == ("warm: most of its runs never came to 0.5 (4 of 5); of the baseline's 0 of 5 never did.")
    assert "pairs fall on both sides" in sentence(found, "disback"), "three of five came there"
    found = outcome([c for c in curves if c.seed in (0, 4)], arms=("baseline", "warm"), levels=(0.5,))
    assert sentence(found, "warm").startswith("warm: half of its runs never came to 0.5 (1 of 2)")


def test_a_goal_is_not_met_by_the_one_run_that_came_there() -> None:
    """No baseline comes to .5, and one of five of the path's runs does: its pair alone would say 'three times faster'."""
    curves = [curve("baseline", seed, (4, 3, 2, 1)) for seed in range(5)]
    curves += [curve("warm", seed, (4, 0.4, 0.4, 0.4) if seed == 0 else (4, 4, 4, 4)) for seed in range(5)]
    found = outcome(curves, arms=("baseline", "warm"), levels=(0.5,))
    assert found.at("warm", 0.5).speedup == 3
    (row,) = results(found, [Goal("warm", 0.5, 2.0)])
    assert (row.value, row.met) == (3, False)
    assert row.name.endswith("(1 of 5 pairs)")
    assert goals_met(found, [Goal("warm", 0.5, 2.0)]) == [("warm ≥ 2 × to 0.5", False)]
    curves = [c if c.arm == "baseline" or c.seed > 2 else curve("warm", c.seed, (4, 0.4, 0.4, 0.4)) for c in curves]
    assert outcome(curves, arms=("baseline", "warm"), levels=(0.5,)).at("warm", 0.5).meets(2.0), "three of five"
