"""What a plan says of footprints that are given: who fits, who holds the others up, and what would help."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from disback_ray.config import ClusterConfig, Recipe, load_cluster, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning import planner as planner_module
from disback_ray.planning.cards import CONTEXT, FRAGMENTATION, GIB, Cores, card
from disback_ray.planning.dry_run import Footprint
from disback_ray.planning.layouts import layouts
from disback_ray.planning.plan import Plan, make
from disback_ray.planning.planner import Planner

FLOPS = {"teacher": 1.0, "path_node": 1.0, "fake_score": 4.0, "generator": 3.0}
A_SECOND = card("GeForce-RTX-3090").fp32
NEEDED = {name: Footprint(int(GIB), 0, 0, int(4 * GIB), flops * A_SECOND) for name, flops in FLOPS.items()}


def planned(cluster: ClusterConfig, needed: dict[str, Footprint] = NEEDED, recipe: Recipe | None = None) -> Plan:
    from disback_ray.actors.company import denoiser_spec

    recipe = recipe or load_recipe("digits")
    return make(recipe, denoiser_spec(recipe), cluster, card_of=dict.fromkeys(FLOPS, card("GeForce-RTX-3090")), needed=needed)


def test_one_role_a_card() -> None:
    plan = planned(load_cluster("four-3090"))
    assert [device.name for device in plan.devices] == ["teacher", "path_node", "fake_score", "generator"]
    assert plan.seconds == pytest.approx(4)
    assert plan.bottleneck.name == "fake_score"
    assert plan.fits
    assert plan.bottleneck.needs == pytest.approx(4 * GIB * FRAGMENTATION + CONTEXT)
    assert plan.with_one_more() == pytest.approx(3), "then the generator is the longest"
    assert plan.wire == 3 * 64 * 64 * 4, "x_0, the target's score and the difference, of 64 samples of 8 × 8 in float32"


def test_targets_that_share_a_card_are_not_asked_at_once() -> None:
    plan = planned(load_cluster("three-3090"))
    assert (plan.devices[0].name, plan.devices[0].seconds) == ("teacher + path_node", pytest.approx(1))
    assert plan.devices[0].needs == pytest.approx(2 * (4 * GIB * FRAGMENTATION + CONTEXT))
    crowded = planned(
        load_cluster("four-3090", overrides=["roles.path_node={with: generator}", "roles.teacher={with: generator}"])
    )
    assert crowded.seconds == pytest.approx(4)
    assert crowded.devices[-1].seconds == pytest.approx(3 + 1)


def test_a_part_of_a_card_has_a_part_of_its_memory() -> None:
    half = planned(load_cluster("four-3090", overrides=["roles.teacher.gpus=0.15"]))
    assert not half.devices[0].fits
    assert not half.fits
    assert half.devices[1].fits


def test_replicas_share_the_time() -> None:
    plan = planned(load_cluster("four-3090", overrides=["roles.teacher.replicas=2"]))
    assert plan.devices[0].seconds == pytest.approx(0.5)


def test_cores_are_one_memory_and_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    from disback_ray.actors.company import denoiser_spec

    recipe = load_recipe("digits")
    here = Cores("cores", 20 * GIB, A_SECOND, A_SECOND)
    plan = make(recipe, denoiser_spec(recipe), load_cluster(None), card_of=dict.fromkeys(FLOPS, here), needed=NEEDED)
    assert plan.seconds == pytest.approx((1 + 1 + 4 + 3) / 2)
    assert plan.fits
    small = make(
        recipe,
        denoiser_spec(recipe),
        load_cluster(None),
        card_of=dict.fromkeys(FLOPS, replace(here, memory=10 * GIB)),
        needed=NEEDED,
    )
    assert all(device.fits for device in small.devices)
    assert not small.fits, "each fits, and all together don't"


@pytest.mark.parametrize(("cards", "ways"), [(1, 3), (2, 6), (3, 1), (4, 2), (6, 2)])
def test_layouts_use_so_many_cards(cards: int, ways: int) -> None:
    found = list(layouts(load_cluster("four-3090"), cards, "GeForce-RTX-3090"))
    assert len(found) == ways
    for cluster in found:
        plan = planned(cluster)
        assert sum(device.count for device in plan.devices) == cards
        assert sorted(role.name for device in plan.devices for role in device.roles) == sorted(FLOPS)


class Shrinking:
    """Footprints of a generator that is too large, until certain settings are there."""

    def __init__(self, until: Callable[[Recipe], bool]) -> None:
        self.until = until

    def __call__(self, recipe: Recipe, spec: Any) -> dict[str, Footprint]:
        large = replace(NEEDED["generator"], peak=int((4 if self.until(recipe) else 40) * GIB))
        return NEEDED | {"generator": large}


def test_what_doesn_t_fit_is_refused_with_the_settings_that_make_it_fit(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_module, "footprints", Shrinking(lambda recipe: recipe.student.checkpointing))
    said = command("plan", "digits", "--cluster", "four-3090")
    assert said.status == 2
    assert "generator: " in said.out
    assert "DOES NOT FIT" in said.out
    assert said.complaint.startswith("digits doesn't fit: it does with --set student.graph=recompute --set micro_batches=64 ")
    assert "--set student.checkpointing=true" in said.complaint
    assert "fake_score" not in said.complaint, "a role that fits is left alone"

    monkeypatch.setattr(planner_module, "footprints", Shrinking(lambda recipe: False))
    assert "no setting makes it fit" in command("plan", "digits", "--cluster", "four-3090").complaint


def test_auto_takes_the_fastest_seats_that_fit(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(planner_module, "footprints", lambda recipe, spec: NEEDED)
    chosen, settings, plan = Planner("digits", named="GeForce-RTX-3090").choose(load_cluster(None), 2)
    assert settings == []
    assert plan.seconds == pytest.approx(4), "the fake score alone, the others together"
    assert [device.name for device in plan.devices if device.seconds == pytest.approx(4)]
    assert {chosen.roles.generator.share, chosen.roles.teacher.share} <= {None, "generator", "teacher"}
    said = command("plan", "digits", "--auto", "--cards", "3", "--card", "GeForce-RTX-3090")
    assert said.status == 0
    (tmp_path / "cluster.yaml").write_text(said.out[said.out.index("roles:") : said.out.index("┏")])
    assert load_cluster(tmp_path / "cluster.yaml").roles.path_node.share == "teacher"


def test_bad_words_are_one_line(command: Callable[..., Any]) -> None:
    for arguments, says in [
        (["digits", "--card", "RTX-9090"], "RTX-9090"),
        (["nothing"], "unknown recipe"),
        (["digits", "--auto", "--cards", "0"], "--cards 0"),
        (["ffhq64-edm", "--set", "teacher.expects.resolution=48"], "no such file"),
    ]:
        said = command("plan", *arguments)
        assert said.status == 2
        assert says in said.complaint


def test_a_plan_that_can_t_be_placed_on_known_cards_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no figures are known"):
        card("Voodoo2")
