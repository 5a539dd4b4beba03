"""Each regime is a recipe of its own with a path to decide about, and what auto is held against is the best of the arms."""

import pytest

from benchmarks.auto_path import REGIMES, against_best
from disback_ray.comparison.arms import ARMS, PAPER
from disback_ray.comparison.curves import Curve
from disback_ray.comparison.outcome import outcome
from disback_ray.config import load_recipe


def test_regimes_are_recipes_that_differ() -> None:
    made = [load_recipe(regime.recipe, overrides=[*regime.settings, *ARMS["auto"]]) for regime in REGIMES.values()]
    assert len({recipe.model_dump_json() for recipe in made}) == len(made)
    for recipe, regime in zip(made, REGIMES.values(), strict=True):
        assert recipe.path != "fixed"
        assert recipe.recording.steps
        assert recipe.backtracking.steps % regime.every == 0
        assert list(regime.levels) == sorted(regime.levels, reverse=True)


def curve(arm: str, *reached: float, tried: int = 0) -> Curve:
    """A look every 10 steps."""
    steps = tuple(range(0, 10 * len(reached), 10))
    return Curve(arm, 0, "distance", steps, reached, 20 if arm in ("warm", "disback") or tried else 0, 1.0, 0.5, tried)


def test_auto_is_held_against_the_best_arm() -> None:
    arms = [curve("baseline", 9, 5, 3, 2, 2), curve("warm", 9, 3, 1, 1, 1), curve("disback", 9, 8, 1, 1, 1)]
    found = outcome([*arms, curve("auto", 9, 5, 2, tried=10)], arms=(*PAPER, "auto"), levels=(5, 3, 1, 0.5))
    rows = against_best("here", found)
    assert [row.name.rpartition(" ")[2] for row in rows] == ["baseline", "baseline", "(never)"]  # none comes to .5
    assert [row.baseline for row in rows] == [10, 20, 30]  # 20 of recording cost 10
    assert [row.value for row in rows] == pytest.approx([10 + 10 + 10, 20 + 10 + 10, 20 + 10 + 10])
    assert [row.met for row in rows] == [False, False, False]
    assert [row.ratio for row in rows] == pytest.approx([3.0, 2.0, 4 / 3])
