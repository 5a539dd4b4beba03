"""Whole runs with what saves memory: over actors as in one process, each start of s_φ, and settings that contradict one another."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from disback_ray.actors.calls import starts
from disback_ray.actors.fake_score import FakeScore
from disback_ray.config import load_recipe, shipped
from disback_ray.errors import ConfigError

LEAN = (
    "fake_score={lora: {rank: 2}, checkpointing: true}",
    "precision={teacher: bf16, path_node: bf16, fake_score: bf16, generator: bf16_stochastic}",
    "student={network: teacher, sigma_init: 2.5, ema: 0.9, graph: recompute, checkpointing: true, ema_on: host}",
    "backtracking.generator.states=8bit",
    "backtracking.fake_score.offload=true",
    "recording.optimiser.warmup=3",
    "recording.store=int8",
)


@pytest.fixture(scope="module")
def lean(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of digits with all of it at once."""
    return Path(tiny.run("digits", tmp_path_factory.mktemp("runs") / "lean", *LEAN).folder.uri)


@pytest.mark.long
def test_over_actors_it_is_the_same_run(lean: Path, tiny: Any, ray_cluster: str, tmp_path: Path) -> None:
    tiny.run("digits", tmp_path / "there", *LEAN, f"cluster.address={ray_cluster}", in_process=False)
    tiny.assert_equal(tmp_path / "there", lean, pictures=False)


def test_the_path_and_the_checkpoints_hold_adapters_alone(lean: Path) -> None:
    for file in [*lean.glob("path/*.safetensors"), *lean.glob("checkpoints/*/fake_score.safetensors")]:
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.keys() if not name.startswith(("optimiser.", "version"))]  # noqa: SIM118
        assert names
        assert all(".lora_" in name for name in names), file
        assert any(name.endswith(":int8") for name in names) == (file.parent.name == "path"), file
    whole = (lean / "generator" / "model.safetensors").stat().st_size
    assert all(file.stat().st_size < 0.5 * whole for file in lean.glob("path/*.safetensors"))


def test_a_run_that_stopped_goes_on_to_the_same_end(lean: Path, tiny: Any, tmp_path: Path) -> None:
    """From its checkpoint before the last: 8-bit moments, adapters and bfloat16 weights come back as they were."""
    again = tmp_path / "again"
    shutil.copytree(lean, again)
    shutil.rmtree(max((again / "checkpoints").glob("backtracking-*")))
    summary = tiny.summary(again)
    (again / "summary.json").write_text(json.dumps(summary | {"status": "interrupted", "digest": ""}))
    tiny.run("digits", again, *LEAN)
    tiny.assert_equal(again, lean, pictures=False)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """The stages that s_φ begins from here on, each with its node."""
    made: list[tuple[str, int | None]] = []
    begin = FakeScore.begin

    @starts
    def noted(self: FakeScore, stage: str, *, node: int | None) -> dict[str, float]:
        made.append((stage, node))
        return begin(self, stage, node=node)

    monkeypatch.setattr(FakeScore, "begin", noted)
    return made


def test_by_default_s_phi_starts_at_the_path_s_end(tiny: Any, tmp_path: Path, begun: list[tuple[str, int | None]]) -> None:
    few = ("recording.steps=3", "recording.at=[1,3]", "backtracking.steps=2", "backtracking.steps_per_node=1")
    tiny.run("ring8", tmp_path / "run", *few, "evaluation.every=1")
    assert begun == [("recording", 0), ("backtracking", 2)]


@pytest.mark.parametrize(("start", "node"), [("teacher", 0), ("random", None)])
def test_another_start_of_s_phi_is_another_run_towards_the_same_targets(
    tiny: Any, ring8: Path, tmp_path: Path, begun: list[tuple[str, int | None]], start: str, node: int | None
) -> None:
    tiny.run("ring8", tmp_path / start, f"backtracking.fake_init={start}")
    assert begun == [("recording", 0), ("backtracking", node)]
    ours, theirs = tiny.summary(tmp_path / start), tiny.summary(ring8)
    assert ours["switches"] == theirs["switches"]
    assert ours["digest"] != theirs["digest"]
    for node in (1, 2, 3):
        name = f"path/node-{node}.safetensors"
        assert (tmp_path / start / name).read_bytes() == (ring8 / name).read_bytes(), "the path is the same"
    first = [next(row for row in tiny.rows(out) if row["stage"] == "backtracking") for out in (tmp_path / start, ring8)]
    assert first[0]["fake_loss"] != first[1]["fake_loss"], "it starts elsewhere"


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("digits", ["fake_score.lora={}", "backtracking.fake_init=random"], "fake_init: random: LoRA (fake_score.lora) leaves"),
        (
            "ring8",
            ["precision.teacher=bf16", "teacher.exact_score=true"],
            "precision.teacher: bf16: the exact score is no network",
        ),
        ("ring8", ["precision.generator=bf16"], "precision.generator: bf16: only denoisers can, and the student is an MLP"),
        ("ring8", ["student.checkpointing=true"], "checkpointing: true: a plain MLP has no blocks"),
        ("ring8", ["student.checkpointing=selective"], "checkpointing: selective: a plain MLP has no blocks"),
        (
            "digits",
            ["fake_score.checkpointing=some"],
            "fake_score.checkpointing: 'some': input should be False, True or 'selective'",
        ),
        ("ffhq64-edm", ["student.ema_on=host"], "ema_on: host: there is no average"),
        ("digits", ["precision.teacher=bf16_stochastic"], "precision.teacher: 'bf16_stochastic'"),
        ("digits", ["precision.student=bf16"], "unknown key precision.student"),
        ("digits", ["fake_score.lora={rank: 0}"], "fake_score.lora.rank: 0"),
        ("digits", ["fake_score.lora={rnk: 8}"], "unknown key fake_score.lora.rnk; did you mean 'rank'?"),
        ("digits", ["fake_score.lora={targets: []}"], "fake_score.lora.targets"),
        (
            "digits",
            ["fake_score.lora={}", "recording.store=low_rank"],
            "recording.store: low_rank: adapters (fake_score.lora) are of a",
        ),
        ("digits", ["recording.store=int4"], "recording.store: 'int4'"),
        ("digits", ["recording.store_rank=0"], "recording.store_rank: 0"),
        ("digits", ["backtracking.fake_init=end"], "backtracking.fake_init: 'end'"),
        ("digits", ["student.graph=redo"], "student.graph: 'redo'"),
        ("digits", ["recording.optimiser={lr: 0.1, kind: sgd, states: 8bit}"], "recording.optimiser: .*sgd has none"),
    ],
)
def test_contradictions_are_said_in_one_line(recipe: str, changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe(recipe, overrides=changes)
    message = str(refused.value)
    assert "\n" not in message
    assert said in message or re.search(said, message), message


@pytest.mark.parametrize("name", shipped("recipes"))
def test_shipped_recipes_keep_frozen_networks_of_that_size_in_bfloat16(name: str) -> None:
    """The small ones stay in float32, and nothing warms up."""
    recipe = load_recipe(name)
    small = name in ("digits", "digits-paper", "ring8", "grid25")
    frozen = "fp32" if small else "bf16"
    assert (recipe.precision.teacher, recipe.precision.path_node) == (frozen, frozen)
    back = recipe.backtracking
    assert [optimiser.warmup for optimiser in (recipe.recording.optimiser, back.generator, back.fake_score)] == [0, 0, 0]
