"""What a plan says of footprints that are given: who fits, who holds the others up, and what would help."""

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.filesize import decimal

from disback_ray.actors.parts import denoiser_spec
from disback_ray.config import ClusterConfig, Recipe, RoleResources, load_cluster, load_recipe
from disback_ray.errors import ConfigError
from disback_ray.planning.cards import CONTEXT, FRAGMENTATION, GIB, PROCESS, Cores, card
from disback_ray.planning.dry_run import DryRuns, Footprint
from disback_ray.planning.layouts import cards_of, layouts
from disback_ray.planning.measured import earlier
from disback_ray.planning.meter import Held
from disback_ray.planning.page import words
from disback_ray.planning.plan import Device, Plan, RolePlan, make
from disback_ray.planning.planner import Planner
from disback_ray.planning.published import teacher_spec
from disback_ray.planning.ranked import of_each_rank
from disback_ray.planning.remedies import unfit
from disback_ray.run_folder import Summary, write_config
from disback_ray.storage import Folder

FLOPS = {"teacher": 1.0, "path_node": 1.0, "fake_score": 4.0, "generator": 3.0}
A_SECOND = card("GeForce-RTX-3090").fp32
NEEDED = {name: Footprint(int(GIB), 0, 0, 0, int(4 * GIB), flops * A_SECOND) for name, flops in FLOPS.items()}


@pytest.fixture(autouse=True)
def _own_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run of an earlier hour tells these plans how long a step takes."""
    monkeypatch.chdir(tmp_path)


def planned(cluster: ClusterConfig, needed: dict[str, Footprint] = NEEDED, recipe: Recipe | None = None) -> Plan:
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


def test_one_more_device_takes_half_of_a_role_or_some_of_those_that_share() -> None:
    longest = NEEDED | {"fake_score": replace(NEEDED["fake_score"], flops=10 * A_SECOND)}
    assert planned(load_cluster("four-3090"), longest).with_one_more() == pytest.approx(5), "two ranks"
    one = planned(load_cluster("one-3090"))
    assert one.seconds == pytest.approx(4 + 3 + 1)
    assert one.with_one_more() == pytest.approx(planned(load_cluster("two-3090")).seconds) == pytest.approx(4)


def test_one_more_device_is_one() -> None:
    """Three replicas of the node's role leave the teacher's card together, for the one that comes."""
    busy = NEEDED | {"path_node": replace(NEEDED["path_node"], flops=9 * A_SECOND)}
    plan = planned(load_cluster("three-3090", overrides=["roles.path_node={with: teacher, replicas: 3}"]), busy)
    assert plan.bottleneck.name == "teacher + path_node"
    assert plan.with_one_more() == pytest.approx(plan.seconds) == pytest.approx(9)


def test_replicas_that_share_a_card_each_need_room_and_bring_no_time() -> None:
    alone, thirty = (
        planned(load_cluster("three-3090", overrides=[f"roles.path_node={{with: teacher, replicas: {count}}}"])).devices[0]
        for count in (1, 30)
    )
    assert thirty.needs == pytest.approx(31 * (4 * GIB * FRAGMENTATION + CONTEXT))
    assert (alone.fits, thirty.fits) == (True, False)
    assert thirty.seconds == pytest.approx(alone.seconds)


def test_a_rank_s_device_is_nobody_else_s() -> None:
    shared = load_cluster("four-3090", overrides=["roles.generator.ranks=2", "roles.teacher={with: generator}"])
    with pytest.raises(
        ConfigError, match=r"roles.teacher.with: generator: that one has ranks, and each needs a device of its own"
    ):
        planned(shared)


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


def test_ranks_share_micro_batches_and_with_fsdp_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(_: DryRuns, recipe: Recipe, names: Collection[str]) -> dict[str, Footprint]:
        """1 GiB of activations for each eight samples, 2 of weights, 4 of moments."""
        peak = int((6 + recipe.batch / 8) * GIB)
        works = recipe.batch * A_SECOND
        return {name: Footprint(int(2 * GIB), 0, int(4 * GIB), 0, peak, flops * works) for name, flops in FLOPS.items()}

    monkeypatch.setattr(DryRuns, "footprints", whole)
    planner = Planner("digits", ["batch=16", "micro_batches=4"], "GeForce-RTX-3090")
    roles = {name: planner.plan(load_cluster("four-3090", overrides=sets)).devices[2].roles[0] for name, sets in {
        "one": [], "ddp": ["roles.fake_score.ranks=4"],
        "fsdp": ["roles.fake_score.ranks=4", "roles.fake_score.sharding=fsdp"],
    }.items()}  # fmt: skip
    assert [role.seconds for role in roles.values()] == pytest.approx([64, 16, 16])
    assert [role.footprint.peak / GIB for role in roles.values()] == pytest.approx([8, 6.5, 6 / 4 + 0.5])
    assert [role.devices for role in roles.values()] == [1, 4, 4]
    assert roles["ddp"].gradients == 2 * 3 / 4 * 2 * GIB, "a ring sends each part of the gradients twice, but to itself"
    with pytest.raises(ConfigError, match=r"micro_batches: 4 can't be shared out among roles\.fake_score\.ranks: 3"):
        planner.plan(load_cluster("four-3090", overrides=["roles.fake_score.ranks=3"]))
    planner = Planner("digits", ["batch=24", "micro_batches=1"], "GeForce-RTX-3090")
    seated, settings, plan = planner.choose(load_cluster(None), 7)
    assert (seated.roles.fake_score.ranks, seated.roles.generator.ranks, settings) == (3, 3, ["micro_batches=3"])
    assert plan.seconds == pytest.approx(4 * 24 / 3), "the fake score's; two more of its ranks would make the generator's longer"


def test_ranks_send_a_copy_of_their_gradients() -> None:
    """Measured for two of them over gloo: 97,752,716 bytes at most, with 19,550,084 of weights."""
    asked = {"fake_score": RoleResources(ranks=2)}
    weights, sent = 19_550_084, 19_549_956
    late = {("commit", 0): Held(4 * weights, sent)}
    whole = Footprint(weights, sent, 2 * weights, 0, 4 * weights + 1000, 1.0, late)
    small = of_each_rank(load_recipe("digits", overrides=["micro_batches=2"]), asked, lambda *_: {"fake_score": whole})[
        "fake_score"
    ]
    assert small.peak == pytest.approx(97_752_716, rel=1e-3)
    earlier_peak = replace(whole, gradients=0, peak=10 * weights)
    assert of_each_rank(load_recipe("digits", overrides=["micro_batches=2"]), asked, lambda *_: {"fake_score": earlier_peak}) == {
        "fake_score": earlier_peak
    }


def test_the_log_of_inputs_keeps_to_its_budget() -> None:
    a_step = planned(load_cluster("four-3090")).wire
    few = planned(load_cluster("four-3090"), recipe=load_recipe("digits", overrides=["checkpoint_every=7"]))
    assert few.log_steps == 7
    small = load_cluster("four-3090", overrides=["recovery.log_mb=1"])
    assert planned(small, recipe=load_recipe("digits", overrides=["checkpoint_every=10000"])).log_steps == 2**20 // a_step


def test_times_of_an_earlier_run_count_where_it_computed_the_same(tmp_path: Path) -> None:
    cluster, recipe = load_cluster("four-3090"), load_recipe("digits")
    calls = {name: {"score": {"calls": 20, "seconds": 30.0}, "fit": {"calls": 20, "seconds": 10.0}} for name in FLOPS}
    devices = {
        "steps": 20,
        "calls": calls | {"teacher/1": calls["teacher"]},
        "busy": {},
        "bottleneck": "",
        "wire": {"bytes_per_sample": 1.0},
    }
    run = Folder.at(tmp_path / "runs") / "mine"
    write_config(run, recipe.model_copy(update={"checkpoint_every": 3}), cluster, seed=5)
    run.write_json("summary.json", asdict(Summary("digits", 5)) | {"devices": devices})
    (tmp_path / "runs" / "else").mkdir()
    (tmp_path / "runs" / "else" / "config.yaml").write_text("a: [")
    storage = str(tmp_path / "runs")
    found = earlier(storage, recipe, cluster)
    assert found is not None
    assert found.seconds == {"teacher": 4.0, "path_node": 2.0, "fake_score": 2.0, "generator": 2.0}
    plan = make(
        recipe, denoiser_spec(recipe), cluster, card_of=dict.fromkeys(FLOPS, card("GeForce-RTX-3090")), needed=NEEDED, run=found
    )
    assert plan.seconds == 4
    assert "(20 steps)" in plan.measured
    assert earlier(storage, load_recipe("digits", overrides=["batch=32"]), cluster) is None
    assert earlier(storage, recipe, load_cluster("four-3090", overrides=["roles.generator.accelerator=A10G"])) is None


def test_cores_are_one_memory_and_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
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


@pytest.mark.parametrize(("cards", "ways"), [(1, 3), (2, 6), (3, 1), (4, 4), (6, 7), (8, 9)])
def test_layouts_use_so_many_cards(cards: int, ways: int) -> None:
    found = list(layouts(load_cluster("four-3090"), cards, "GeForce-RTX-3090", batch=32))
    assert len(found) == ways
    for cluster in found:
        plan = planned(cluster)
        assert sum(device.count for device in plan.devices) == cards
        assert sorted(role.name for device in plan.devices for role in device.roles) == sorted(FLOPS)


def test_auto_chooses_ranks_on_eight_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake score 4 s, generator 3, targets 1: four ranks, two, and two replicas; no two that share a batch of 64 fill seven."""

    def shared(_: DryRuns, recipe: Recipe, names: Collection[str]) -> dict[str, Footprint]:
        return {name: replace(NEEDED[name], flops=NEEDED[name].flops * recipe.batch / 64) for name in names}

    monkeypatch.setattr(DryRuns, "footprints", shared)
    seated, settings, plan = Planner("digits", named="GeForce-RTX-3090").choose(load_cluster("eight-3090"))
    roles = seated.roles
    assert (roles.fake_score.ranks, roles.generator.ranks, roles.teacher.replicas, settings) == (4, 2, 2, ["micro_batches=4"])
    assert plan.seconds == pytest.approx(1.5)


class Shrinking:
    """Footprints of a generator that is too large, until certain settings are there."""

    def __init__(self, until: Callable[[Recipe], bool]) -> None:
        self.until = until

    def footprints(self, recipe: Recipe, names: Collection[str]) -> dict[str, Footprint]:
        large = replace(NEEDED["generator"], peak=int((4 if self.until(recipe) else 40) * GIB))
        return NEEDED | {"generator": large}


def test_what_doesn_t_fit_is_refused_with_the_settings_that_make_it_fit(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DryRuns, "footprints", Shrinking(lambda recipe: recipe.student.checkpointing is True).footprints)
    said = command("plan", "digits", "--cluster", "four-3090")
    assert said.status == 2
    assert "generator: " in said.out
    assert "DOES NOT FIT" in said.out
    assert said.complaint == "digits doesn't fit: it does with --set student.checkpointing=true", (
        "and not with what was tried before"
    )
    assert "fake_score" not in said.complaint, "a role that fits is left alone"

    monkeypatch.setattr(DryRuns, "footprints", Shrinking(lambda recipe: False).footprints)
    assert "no setting makes it fit" in command("plan", "digits", "--cluster", "four-3090").complaint


def test_selective_checkpoints_come_first_and_never_in_place_of_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DryRuns, "footprints", Shrinking(lambda recipe: recipe.student.checkpointing == "selective").footprints)
    assert Planner("digits").fitting(load_cluster("four-3090")) == ["student.checkpointing=selective"]
    assert Planner("digits", ["student.checkpointing=true"]).fitting(load_cluster("four-3090")) == []


def test_auto_takes_the_fastest_seats_that_fit(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(DryRuns, "footprints", lambda _, recipe, names: NEEDED)
    chosen, settings, plan = Planner("digits", named="GeForce-RTX-3090").choose(load_cluster(None), 2)
    assert settings == []
    assert plan.seconds == pytest.approx(4), "the fake score alone, the others together"
    assert [device.name for device in plan.devices if device.seconds == pytest.approx(4)]
    assert {chosen.roles.generator.share, chosen.roles.teacher.share} <= {None, "generator", "teacher"}
    said = command("plan", "digits", "--auto", "--cards", "3", "--card", "GeForce-RTX-3090")
    assert said.status == 0
    (tmp_path / "cluster.yaml").write_text(said.out[said.out.index("roles:") : said.out.index("┏")])
    assert load_cluster(tmp_path / "cluster.yaml").roles.path_node.share == "teacher"


@pytest.mark.parametrize(
    ("cluster", "named", "expected"),
    [
        ("eight-3090", None, (8, "GeForce-RTX-3090")),
        ("one-3090", None, (1, "GeForce-RTX-3090")),
        ("mixed", "GeForce-RTX-4090", (1, "GeForce-RTX-4090")),
        (None, "A10G", (4, "A10G")),
    ],
)
def test_auto_has_the_cards_that_the_file_reserves(cluster: str | None, named: str | None, expected: Any) -> None:
    assert cards_of(load_cluster(cluster), kind=named) == expected


def test_auto_asks_which_of_several_kinds() -> None:
    with pytest.raises(
        ConfigError, match="of one kind, and the cluster file names GeForce-RTX-3060, GeForce-RTX-3090, GeForce-RTX-4090"
    ):
        cards_of(load_cluster("mixed"), kind=None)


def cores_and_card(peak: float, memory: float) -> Plan:
    """Two roles on cores, and one on a card."""
    cores = Cores("cores", memory, 1.0, 1.0)
    roles = [RolePlan(name, Footprint(0, 0, 0, 0, int(peak), 0.0), 1.0, 1) for name in ("teacher", "fake_score", "generator")]
    return Plan((Device(cores, (roles[0],)), Device(cores, (roles[1],)), Device(card("T4"), (roles[2],))), wire=0)


def test_what_is_on_cores_has_their_memory_together() -> None:
    plan = cores_and_card(4 * GIB, 8 * GIB)
    assert [device.fits for device in plan.devices] == [True] * 3
    assert not plan.fits
    assert unfit(plan) == ["teacher", "fake_score"]
    needs = decimal(int(2 * (4 * GIB * FRAGMENTATION + PROCESS)))
    assert f"teacher + fake_score: {needs} of {decimal(8 * GIB)} of memory: DOES NOT FIT" in words(plan, network="")
    assert unfit(cores_and_card(4 * GIB, 16 * GIB)) == []


def test_host_memory_is_the_device_s_where_the_device_is_the_host() -> None:
    role = RolePlan("generator", Footprint(0, 0, 0, 0, int(4 * GIB), 0.0, on_host=int(2 * GIB)), 1.0, 1)
    assert Device(Cores("cores", 1e12, 1.0, 1.0), (role,)).needs == pytest.approx(6 * GIB * FRAGMENTATION + PROCESS)
    assert Device(card("T4"), (role,)).needs == pytest.approx(4 * GIB * FRAGMENTATION + CONTEXT)


def test_what_lies_in_host_memory_is_counted_there() -> None:
    plain, lean = (
        DryRuns(teacher_spec(load_recipe("digits"))[0]).footprints(load_recipe("digits", overrides=changes), ["generator"])[
            "generator"
        ]
        for changes in ([], ["student.ema_on=host", "backtracking.generator.offload=true"])
    )
    assert plain.on_host == 0
    assert lean.on_host == plain.optimiser + plain.average


def test_a_plan_needs_no_storage_that_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(uri: str) -> Folder:
        raise ConfigError(f"storage {uri}: no route to it")

    monkeypatch.setattr(DryRuns, "footprints", lambda _, recipe, names: NEEDED)
    monkeypatch.setattr(Folder, "at", unreachable)
    eight = load_cluster("eight-3090")
    assert Planner("digits", storage=eight.storage).plan(eight).measured == ""


def test_what_a_recipe_has_already_is_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets too large for their card but in bfloat16, one sample at a time, with adapters."""
    huge = NEEDED | {name: Footprint(int(GIB), 0, 0, 0, int(40 * GIB), 0.0) for name in ("teacher", "path_node")}

    def footprints(_: Any, recipe: Recipe, names: Any) -> dict[str, Footprint]:
        fits = recipe.micro_batches == recipe.batch and recipe.precision.teacher == "bf16" and recipe.fake_score.lora
        return NEEDED if fits else huge

    monkeypatch.setattr(DryRuns, "footprints", footprints)
    cluster = load_cluster("three-3090", overrides=["roles.fake_score={with: teacher}"])
    has = ["precision.teacher=bf16", "precision.path_node=bf16", "micro_batches=64"]
    changed = Planner("digits").fitting(cluster)
    assert changed == ["micro_batches=64", *has[:2], "fake_score.lora={rank: 64}"]
    assert Planner("digits", has).fitting(cluster) == ["fake_score.lora={rank: 64}"]


def test_what_contradicts_itself_takes_the_place_of_the_setting_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """8-bit moments are still too large: in host memory they are of 32 bits again."""
    small = Shrinking(lambda recipe: recipe.backtracking.generator.offload)
    monkeypatch.setattr(DryRuns, "footprints", small.footprints)
    settings = Planner("digits", ["backtracking.generator.states=8bit"]).fitting(load_cluster("four-3090"))
    assert settings == ["backtracking.generator.offload=true", "backtracking.generator.states=fp32"]


def test_bad_words_are_one_line(command: Callable[..., Any]) -> None:
    for arguments, says in [
        (["digits", "--card", "RTX-9090"], "RTX-9090"),
        (["nothing"], "unknown recipe"),
        (["digits", "--cards", "2"], "--cards: how many cards --auto has"),
        (["digits", "--auto", "--cards", "0"], "--cards 0: expected 1 to 64"),
        (["digits", "--auto", "--cards", "100000"], "--cards 100000: expected 1 to 64"),
        (["digits", "--auto", "--cards", "2"], "--auto: there is no GPU here to choose seats on: name the cards with --card"),
        (["ffhq64-edm", "--set", "teacher.expects.resolution=48"], "no such file"),
    ]:
        said = command("plan", *arguments)
        assert said.status == 2
        assert says in said.complaint


def test_a_plan_that_can_t_be_placed_on_known_cards_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no figures are known"):
        card("Voodoo2")
