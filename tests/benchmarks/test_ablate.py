"""Every variant of every axis is a recipe, and differs from the others."""

import pytest

from benchmarks.ablate import AXES
from disback_ray.config import load_recipe


@pytest.mark.parametrize("recipe", ["ring8", "digits-paper"])
def test_variants_are_recipes(recipe: str) -> None:
    plan = load_recipe(recipe)
    for axis, variants in AXES.items():
        made = [load_recipe(recipe, overrides=changes) for changes in variants(plan).values()]
        assert len(made) >= 2, axis
        assert len({variant.model_dump_json() for variant in made}) == len(made), axis
        assert {variant.backtracking.steps for variant in made} == {plan.backtracking.steps}


def test_numbers_of_nodes_have_the_same_steps_on_them() -> None:
    plan = load_recipe("ring8")
    made = {name: load_recipe("ring8", overrides=changes) for name, changes in AXES["nodes"](plan).items()}
    assert [len(variant.marks) for variant in made.values()] == [2, 4, 6]
    assert {variant.switches[-1].step for variant in made.values()} == {plan.switches[-1].step}
