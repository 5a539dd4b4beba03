"""A text-to-image teacher from its recipe to the picture: over actors, in one process, and drawn from afterwards."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

import disback_ray
from disback_ray import theatre
from disback_ray.actors import prompt_encoder
from disback_ray.actors.company import Places, parts
from disback_ray.config import ClusterConfig, load_recipe
from disback_ray.storage import Folder

NAME = "sd15-lcm-lora"


def play(storage: Path, *, in_process: bool, address: str = "local", overrides: tuple[str, ...] = ()) -> disback_ray.RunResult:
    cluster = ClusterConfig(storage=str(storage), address=address)
    return disback_ray.run(NAME, cluster=cluster, in_process=in_process, tiny=True, overrides=overrides)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def here(storage: Path) -> disback_ray.RunResult:
    """A whole run in one process, whose text encoders were gone before the cast was built."""
    encoders: list[weakref.ref[Any]] = []
    kept, built = prompt_encoder.load_encoders, theatre.in_process

    def loading(*args: Any, **kwargs: Any) -> Any:
        made = kept(*args, **kwargs)
        encoders.append(weakref.ref(made.encoders[0]))
        return made

    def casting(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        assert len(encoders) == 1
        assert encoders[0]() is None, "the text encoders are gone"
        return built(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_encoder, "load_encoders", loading)
        patch.setattr(theatre, "in_process", casting)
        return play(storage, in_process=True)


def test_over_actors_it_is_the_same_run(
    here: disback_ray.RunResult, tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts are encoded in an actor's process, which has ended when the cast is there."""
    import ray
    from ray._private import state

    cast = theatre.on_ray

    def casting(*args: Any, **kwargs: Any) -> Any:
        company = cast(*args, **kwargs)
        states = {actor["State"] for actor in state.actors().values() if actor["ActorClassName"] == "PromptEncoder"}
        assert states == {"DEAD"}
        assert ray.is_initialized()
        return company

    monkeypatch.setattr(theatre, "on_ray", casting)
    there = play(tmp_path, in_process=False, address=ray_cluster)
    assert there.digest == here.digest


def test_prompts_are_encoded_once_and_only_the_lora_is_trained(
    here: disback_ray.RunResult, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_encoder, "load_encoders", None)  # a second encoding would fail
    again = disback_ray.run(NAME, cluster=ClusterConfig(storage=str(storage)), out=storage / "again", in_process=True, tiny=True)
    assert again.digest == here.digest


def test_guidance_is_the_targets_alone(storage: Path, here: disback_ray.RunResult) -> None:
    from disback_ray.tiny import tiny_overrides

    cache = Folder.at(storage / "teachers")
    tiny = tiny_overrides(load_recipe(NAME), cache)
    recipe = load_recipe(NAME, overrides=[*tiny, "teacher.guidance=3", "teacher.path_guidance=2"])
    made = parts(recipe, Places(cache / here.summary["teacher"], here.folder, cache), seed=0)
    guidance = {name: arguments.get("guidance") for name, (_, arguments) in made.items()}
    assert guidance == {"teacher": 3.0, "path_node": 2.0, "fake_score": None, "generator": None, "evaluator": None}
    assert load_recipe(NAME, overrides=[*tiny, "teacher.guidance=3"]).teacher.nodes_guidance == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data={kind: none}", "data.kind: none: this teacher takes prompts"),
        ("student.network={kind: ddpmpp}", "student.network.kind: ddpmpp: this teacher's student is its own network"),
        ("student.init_timestep=1000", "student.init_timestep: 1000: the teacher knows times of 0 … 999"),
        ("teacher.guidance=0.5", "teacher.guidance: 0.5"),
        ("fit_noise={kind: karras}", "fit_noise: σ of"),
        ("student.lora=none.safetensors", "student.lora: "),
    ],
)
def test_settings_that_contradict_are_one_line(storage: Path, override: str, message: str) -> None:
    with pytest.raises(disback_ray.errors.DisbackError) as error:  # type: ignore[attr-defined]
        play(storage, in_process=True, overrides=(override, "name=other"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (storage / "other").exists()
