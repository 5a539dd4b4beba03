"""A recipe that can't fit what was reserved for it is refused in one line, and nothing is measured where it needs no measuring."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from disback_ray.actors.bundles import Bundle, Node
from disback_ray.actors.parts import denoiser_spec
from disback_ray.config import Recipe, load_cluster, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning import fitting
from disback_ray.planning.cards import CONTEXT, FRAGMENTATION, GIB, Card, Cores
from disback_ray.planning.dry_run import CAST, DryRuns, Footprint
from disback_ray.planning.published import teacher_spec

CARD = Node("10.0.0.1", "GeForce-RTX-3090", gpus=1, cpus=8, free_gpus=1, free_cpus=8)
NEEDED = {name: Footprint(0, 0, 0, 0, int(8 * GIB), 0.0) for name in CAST} | {
    "generator": Footprint(0, 0, 0, 0, int(20 * GIB), 0.0)
}


def judged(*bundles: Bundle, node: Node = CARD, recipe: Recipe | None = None, host: Cores | None = None) -> None:
    recipe = recipe or load_recipe("ffhq64-edm")
    nodes = [node] * len(bundles)
    fitting.refuse_unfit(recipe, teacher_spec(recipe)[0], load_cluster(None).roles.by_name(), bundles, nodes, host)


def test_what_a_card_can_t_hold_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DryRuns, "footprints", lambda *_: NEEDED)
    alone = Bundle((("generator", 0),), 1.0, 1.0, None)
    judged(alone)
    both = replace(alone, members=(("generator", 0), ("fake_score", 0)))
    with pytest.raises(ConfigError, match=r"ffhq64-edm doesn't fit: generator and fake_score need .* on a GeForce-RTX-3090: "):
        judged(both)
    with pytest.raises(ConfigError, match=r"doesn't fit: generator needs .* that it has on a "):
        judged(replace(alone, gpus=0.5))
    just = Card("it", 20 * GIB * FRAGMENTATION + CONTEXT, 1, 1)  # what the generator needs: estimates are within 10 %
    for part, refused in ((1 / 1.09, False), (1 / 1.11, True)):
        monkeypatch.setitem(fitting.CARDS, "it", replace(just, memory=just.memory * part))
        with pytest.raises(ConfigError) if refused else contextlib.nullcontext():
            judged(alone, node=replace(CARD, accelerator="it"))
    judged(both, node=replace(CARD, accelerator="A100"))  # Ray's name for those of 80 GiB as well
    judged(both, node=replace(CARD, accelerator="Voodoo2"))
    judged(both, node=replace(CARD, accelerator=None))
    judged(replace(both, gpus=0.0))


def test_without_a_gpu_all_roles_have_this_machine_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DryRuns, "footprints", lambda *_: NEEDED)
    bundles = [Bundle(((role, 0),), 0.0, 1.0, None) for role in ("teacher", "generator")]  # 8 and 20 GiB
    judged(*bundles, host=Cores("this machine", 40 * GIB, 0, 0))
    with pytest.raises(
        ConfigError, match=r"doesn't fit: without a GPU teacher, generator need .* of this machine's 25\.8 GB of memory"
    ):
        judged(*bundles, host=Cores("this machine", 24 * GIB, 0, 0))
    judged(*bundles)
    judged(replace(bundles[0], gpus=1.0), bundles[1], host=Cores("this machine", 24 * GIB, 0, 0))


def test_small_networks_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DryRuns, "footprints", lambda *_: pytest.fail("seconds, for nothing"))
    recipe: Any = load_recipe("digits")
    bundle = Bundle((("generator", 0),), 0.25, 1.0, None)
    fitting.refuse_unfit(recipe, denoiser_spec(recipe), load_cluster(None).roles.by_name(), [bundle], [CARD])
    on_cores = [replace(bundle, gpus=0.0, members=((role, 0),)) for role in CAST]
    host = Cores("a small machine", 4 * GIB, 0, 0)
    fitting.refuse_unfit(recipe, denoiser_spec(recipe), load_cluster(None).roles.by_name(), on_cores, [CARD] * 4, host)


def test_a_student_of_its_own_may_be_the_largest() -> None:
    small = load_recipe("ring8")
    large = load_recipe("ring8", overrides=["student.network.width=4000"])
    spec = denoiser_spec(small)
    assert fitting.rough(large, spec) > 20 * fitting.rough(small, spec)
