"""What is planned without data is what the roles then really allocate."""

from pathlib import Path

import pytest

from benchmarks.plan import allocated
from disback_ray.actors.parts import denoiser_spec
from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.config import Recipe, load_recipe
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.planning import dry_run
from disback_ray.planning.dry_run import CAST, FROZEN, DryRuns, Footprint, play
from disback_ray.planning.meter import bytes_of
from disback_ray.storage import Folder

SMALL_DDPM = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
}  # fmt: skip
BASE = ("teacher.network.multipliers=[1]", "batch=16", "micro_batches=2")
VARIANTS = {  # settings, and how many sets of gradients there are at a role's peak
    "plain": (("student.ema=0.0",), {"fake_score": 1, "generator": 0}),
    "recomputed": (
        (
            "student.graph=recompute",
            "student.checkpointing=true",
            "fake_score.checkpointing=true",
            "backtracking.fuse_forward=true",
            "backtracking.blend=1",
        ),
        {"generator": 1},
    ),
}


@pytest.mark.parametrize(("settings", "sets"), VARIANTS.values(), ids=VARIANTS)
def test_the_planned_peak_is_what_torch_s_allocator_gives(
    settings: tuple[str, ...], sets: dict[str, int], tmp_path: Path
) -> None:
    """And its gradients are there as late as they come: s_φ's second way back finds all of them, the first of kept graphs none."""
    recipe = load_recipe("digits", overrides=[*BASE, *settings])
    spec = denoiser_spec(recipe)
    planned, real = DryRuns(spec).footprints(recipe), allocated(recipe, spec, Folder.at(tmp_path))
    for role, peak in real.items():
        assert planned[role].peak == pytest.approx(peak, rel=0.1), role
    for role in planned.values():
        parts = role.parameters + role.gradients + role.optimiser + role.average + role.activations
        assert (parts, role.activations > 0) == (role.peak, True)
    whole = bytes_of(spec.build().parameters())
    sets = dict.fromkeys(FROZEN, 0) | sets
    assert {role: planned[role].gradients for role in sets} == {role: count * whole for role, count in sets.items()}
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
    told, played = DryRuns(spec).footprints(recipe), play(recipe, spec, CAST)
    assert {role: (each.peak, each.flops) for role, each in told.items()} == {
        role: (each.peak, pytest.approx(each.flops)) for role, each in played.items()
    }


def test_of_an_adapter_on_a_frozen_base_there_are_the_adapter_s_gradients() -> None:
    recipe = load_recipe("digits", overrides=[*BASE, "fake_score.lora={rank: 2}"])
    spec = denoiser_spec(recipe)
    held = DryRuns(spec).footprints(recipe, ["fake_score"])["fake_score"]
    adapter = held.parameters - bytes_of(spec.build().parameters())
    assert held.gradients == adapter
    assert held.optimiser == pytest.approx(2 * adapter, rel=0.02), "two moments, and a count for each tensor"


def test_only_what_has_changed_is_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["batch=8", "micro_batches=2", "student.network=teacher"]
    recipe, changed = (load_recipe("ring8", overrides=[*small, f"student.graph={graph}"]) for graph in ("keep", "recompute"))
    runs, asked = DryRuns(denoiser_spec(recipe)), list[list[str]]()

    def noted(recipe: Recipe, spec: DenoiserSpec, names: list[str]) -> dict[str, Footprint]:
        asked.append(names)
        return play(recipe, spec, names)

    monkeypatch.setattr(dry_run, "play", noted)
    first = runs.footprints(recipe)
    assert runs.footprints(recipe) == first
    second = runs.footprints(changed)
    assert asked == [list(CAST), ["generator"]]
    assert second == DryRuns(denoiser_spec(recipe)).footprints(changed)


def test_a_network_is_built_whose_noise_levels_are_read_from_a_table() -> None:
    """Numbers of a tensor that has none, while it is built."""
    network = DDPMSpec(SMALL_DDPM, VPSchedule(), "epsilon", DDIMSettings())
    spec = DenoiserSpec(network, (3, 8, 8), 0, None)
    held = DryRuns(spec).footprints(load_recipe("cifar10-ddim", overrides=["batch=2", "micro_batches=1"]), ["path_node"])
    assert held["path_node"].peak > bytes_of(spec.build().parameters()) / 2, "in bfloat16"
