"""Every shipped recipe plays over actors, from a file in its teacher's real format, and holds the settings of the paper's table."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import disback_ray
from disback_ray import theatre
from disback_ray.actors import company
from disback_ray.actors.on_ray import OnRay, begin
from disback_ray.actors.parts import Part
from disback_ray.actors.session import attach
from disback_ray.algorithms.noise import TimestepNoise
from disback_ray.algorithms.path import Switch
from disback_ray.config import ClusterConfig, TeacherFile, TextTeacher, load_recipe, recipe_text, shipped
from disback_ray.storage import Folder, digest
from disback_ray.teachers.path_nodes import load_node
from disback_ray.teachers.saved import load_denoiser

RECIPES = shipped("recipes")
FROM_FILES = [name for name in RECIPES if isinstance(load_recipe(name).teacher, TeacherFile)]
EDM = [name for name in FROM_FILES if name.endswith("-edm")]
TEXT = [name for name in RECIPES if isinstance(load_recipe(name).teacher, TextTeacher)]
CD = [name for name in FROM_FILES if name.endswith("-cd")]
LIKE_EDM = [*EDM, "cifar10-ddim"]
TRAINED = [name for name in RECIPES if name not in [*FROM_FILES, *TEXT]]
FIRST = [*TRAINED, "sdxl"]
"""In one process first: that trains the teacher, or encodes the prompts, for both."""
TWINS = [*FIRST, "imagenet64-edm", "lsun-cat-cd", "cifar10-ddim"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: the digits' judge and the tiny teachers are made once."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(autouse=True)
def _disconnected() -> None:
    """In place of the one for all tests: here the driver stays, and so do the roles' processes."""


@pytest.fixture(scope="module")
def standing(ray_cluster: str) -> Iterator[str]:
    """The cluster's address. Its five processes of roles outlive a run: the next run's roles are built in them, in place of the last's.

    To start a process and to import torch and diffusers there takes many times as long as two steps. The prompts' encoder has a
    process of its own, which has ended when the cast is there.
    """
    import ray
    from ray._private import state

    actors: dict[str, Any] = {}

    class Standing(OnRay):
        def __init__(self, name: str, part: Part, *, options: dict[str, Any], threads: int, begun: Any, **others: Any) -> None:
            assert options.pop("scheduling_strategy"), "each run reserves its devices, too"
            if name not in actors:
                actors[name] = begin(name, part[0], options=options | {"num_cpus": 0, "num_gpus": 0}, threads=threads)
            super().__init__(name, part, options=options, threads=threads, begun=actors[name], **others)

    cast = theatre.on_ray

    def casting(*args: Any, **kwargs: Any) -> Any:
        assert ray.is_initialized()
        encoders = {a["State"] for a in state.actors().values() if a["ActorClassName"] == "PromptEncoder"}
        assert encoders <= {"DEAD"}, "the text encoders are gone"
        return cast(*args, **kwargs)

    with attach(ray_cluster) as session, pytest.MonkeyPatch.context() as patch:
        patch.setattr(company, "OnRay", Standing)
        patch.setattr(theatre, "on_ray", casting)
        yield session.address


def played(name: str, storage: Path, *, out: str, in_process: bool, address: str = "local") -> disback_ray.RunResult:
    cluster = ClusterConfig(storage=str(storage), address=address)
    return disback_ray.run(name, cluster=cluster, out=storage / out, in_process=in_process, tiny=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_plays_two_steps_of_both_stages_over_actors(name: str, storage: Path, standing: str) -> None:
    """And where a kind of network is played for the first time, it is the same run as in one process."""

    def twin() -> disback_ray.RunResult:
        return played(name, storage, out=f"{name}-here", in_process=True)

    before = twin() if name in FIRST else None
    run = played(name, storage, out=name, in_process=False, address=standing)
    assert run.digest == (before or twin() if name in TWINS else run).digest
    assert (run.summary["status"], run.summary["recipe"]) == ("complete", f"{name}-tiny")
    assert len({seat["pid"] for seat in run.summary["roles"].values()}) == 5
    table = [(row["stage"], row["step"], row["node"]) for row in _rows(run)]
    assert table == [("recording", 1, 1), ("recording", 2, 2), ("backtracking", 1, 1), ("backtracking", 2, 0)]
    teacher = load_denoiser(Folder.at(storage / "teachers" / run.summary["teacher"])).state_dict()
    path = [teacher, *(load_node(run.folder / "path", node) for node in (1, 2))]
    assert len({digest(weights) for weights in path}) == 3, "each step of recording moved the copy"
    assert bool(run.metrics) == (name not in [*FROM_FILES, *TEXT])


def _rows(run: disback_ray.RunResult) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(io.BytesIO(run.folder.read("metrics.parquet"))).to_pylist()
    return rows


@pytest.mark.parametrize("name", FROM_FILES)
def test_the_paper_s_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.recording.steps, recipe.recording.marks) == (200, (50, 100, 150, 200))
    assert recipe.student.network == "teacher"
    back = recipe.backtracking
    assert recipe.switches[-1].node == 0
    if name in LIKE_EDM:
        assert (back.steps, recipe.batch, recipe.batch // recipe.micro_batches) == (500_000, 32, 8)
        assert recipe.switches == (Switch(0, 3), Switch(1000, 2), Switch(2000, 1), Switch(12_000, 0))
        assert (back.generator.kind, back.fake_score.kind) == ("adam", "adam")
    else:
        assert (back.steps, recipe.batch, recipe.student.sigma_init) == (10_000, 2, 80.0)
        assert recipe.switches == (Switch(0, 3), Switch(500, 2), Switch(1000, 1), Switch(2000, 0))
        assert (back.generator.kind, back.fake_score.kind) == ("sgd", "adamw")


def test_the_paper_s_settings_for_sdxl() -> None:
    recipe = load_recipe("sdxl")
    assert recipe.recording.marks == tuple(range(100, 1001, 100))
    assert (recipe.backtracking.steps, recipe.batch, recipe.student.init_timestep) == (50_000, 1, 399)
    assert [switch.step for switch in recipe.switches] == list(range(0, 9001, 1000))
    assert (recipe.backtracking.generator.kind, recipe.backtracking.fake_score.kind) == ("adam", "adam")
    assert isinstance(recipe.teacher, TextTeacher)
    assert (recipe.teacher.guidance, recipe.teacher.nodes_guidance) == (8.0, 8.0)
    noise = recipe.backtracking.noise
    assert isinstance(noise, TimestepNoise)
    assert noise.sigma(torch.tensor([0.0, 0.999999])).tolist() == noise.schedule.sigmas[[20, 980]].tolist()


def test_each_row_of_the_table_has_its_recipe() -> None:
    assert set(TEXT) == {"sdxl", "sd15-lcm-lora"}
    assert set(FROM_FILES) == {*EDM, *CD, "cifar10-ddim"}
    assert set(EDM) == {"ffhq64-edm", "afhqv2-64-edm", "imagenet64-edm", "cifar10-edm"}
    assert set(CD) == {"ffhq64-cd", "afhqv2-64-cd", "imagenet64-cd", "lsun-bedroom-cd", "lsun-cat-cd"}


@pytest.mark.parametrize("name", [*FROM_FILES, *TEXT])
def test_a_recipe_says_where_the_weights_are_and_what_it_chose_itself(name: str) -> None:
    text = recipe_text(name)
    assert "# Weights: " in text
    for key in ("fake_updates", "weighting", "steps_per_node", "fit_noise"):
        (line,) = re.findall(rf"^ *{key}:.*$", text, flags=re.M)
        assert re.search(r"# .*open: ", line), line
    assert not [line for line in text.splitlines() if len(line) > 140]


def test_tiny_settings_can_be_changed(tmp_path: Path) -> None:
    run = disback_ray.run(
        "ring8", cluster=ClusterConfig(storage=str(tmp_path)), in_process=True, tiny=True, overrides=["backtracking.steps=3"]
    )
    assert run.folder.name == "ring8-tiny", "beside the real run, not in its place"
    assert len(_rows(run)) == 5
