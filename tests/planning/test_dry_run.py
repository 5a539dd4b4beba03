"""What is planned without data is what the roles then really allocate."""

from pathlib import Path

import pytest

from benchmarks.plan import allocated
from disback_ray.actors.parts import denoiser_spec
from disback_ray.config import load_recipe
from disback_ray.planning.dry_run import _play, footprints
from disback_ray.storage import Folder

BASE = ("teacher.network.multipliers=[1]", "batch=16", "micro_batches=2")
VARIANTS = {
    "plain": ("student.ema=0.0",),
    "recomputed": (
        "student.graph=recompute",
        "student.checkpointing=true",
        "fake_score.checkpointing=true",
        "backtracking.fuse_forward=true",
        "backtracking.blend=1",
    ),
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_the_planned_peak_is_what_torch_s_allocator_gives(settings: tuple[str, ...], tmp_path: Path) -> None:
    recipe = load_recipe("digits", overrides=[*BASE, *settings])
    spec = denoiser_spec(recipe)
    planned, real = footprints(recipe, spec), allocated(recipe, spec, Folder.at(tmp_path))
    for role, peak in real.items():
        assert planned[role].peak == pytest.approx(peak, rel=0.1), role
    one = planned["teacher"]
    second = one.parameters if recipe.backtracking.blend else 0
    assert (planned["path_node"].parameters, planned["path_node"].peak) == (one.parameters + second, one.peak + second)


MANY = {
    "kept graphs": ("student.graph=keep",),
    "computed again": ("student.graph=recompute", "backtracking.fake_updates=2"),
    "s_φ's graphs as well, small beside its weights": ("backtracking.fuse_forward=true", "micro_batches=24"),
}


@pytest.mark.parametrize("settings", MANY.values(), ids=MANY)
def test_what_many_micro_batches_need_is_told_from_a_few(settings: tuple[str, ...]) -> None:
    """Kept graphs add up, all else doesn't: a step with all parts, played in full."""
    recipe = load_recipe("ring8", overrides=["batch=48", "micro_batches=6", "student.network=teacher", *settings])
    spec = denoiser_spec(recipe)
    told, played = footprints(recipe, spec), _play(recipe, spec)
    assert {role: (each.peak, each.flops) for role, each in told.items()} == {
        role: (each.peak, pytest.approx(each.flops)) for role, each in played.items()
    }
