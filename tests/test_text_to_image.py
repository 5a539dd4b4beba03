"""A text-to-image teacher from its recipe to the picture, and drawn from afterwards. Over actors it plays in test_recipes.py."""

import base64
import gc
import hashlib
import json
import math
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import disback_ray
from disback_ray import theatre
from disback_ray.actors import prompt_encoder
from disback_ray.actors.frozen_score import SCORE_TAG
from disback_ray.actors.parts import Places, parts
from disback_ray.algorithms.noise import Batch, add_noise
from disback_ray.algorithms.records import Drawn, Probe, Sample
from disback_ray.any_model import load_model
from disback_ray.config import ClusterConfig, load_recipe
from disback_ray.exports.export import export
from disback_ray.hugging_face import diffusers
from disback_ray.inspection import inspect
from disback_ray.pictures import image_grid
from disback_ray.storage import Folder
from disback_ray.teachers.drawing import draw_from_teacher
from disback_ray.teachers.saved_generator import SETTINGS
from disback_ray.tiny import tiny_overrides

NAME = "sd15-lcm-lora"


def play(storage: Path, *overrides: str) -> disback_ray.RunResult:
    return disback_ray.run(NAME, cluster=ClusterConfig(storage=str(storage)), in_process=True, tiny=True, overrides=overrides)


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
        return play(storage)


def test_prompts_are_encoded_once_and_only_the_lora_is_trained(
    here: disback_ray.RunResult, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_encoder, "load_encoders", None)  # a second encoding would fail
    again = disback_ray.run(NAME, cluster=ClusterConfig(storage=str(storage)), out=storage / "again", in_process=True, tiny=True)
    assert again.digest == here.digest


def test_guidance_is_the_targets_alone_and_a_recipe_s_settings_reach_the_roles(
    storage: Path, here: disback_ray.RunResult
) -> None:
    cache = Folder.at(storage / "teachers")
    tiny = tiny_overrides(load_recipe(NAME), cache)
    asked = [
        "teacher.guidance=3", "teacher.path_guidance=2",
        "precision={teacher: bf16, path_node: bf16, fake_score: bf16_stochastic, generator: bf16}",
        "student.ema=0.5", "student.ema_ramp=3", "student.ema_on=host", "student.graph=recompute", "student.checkpointing=true",
        "fake_score.checkpointing=true", "backtracking.fake_updates=3", "backtracking.weighting=score_difference",
        "recording.optimiser.lr=0.5", "backtracking.fake_score.lr=0.25", "backtracking.generator.betas=[0.0, 0.9]",
        "fit_noise.low=7",
    ]  # fmt: skip
    recipe = load_recipe(NAME, overrides=[*tiny, *asked])
    made = parts(recipe, Places(cache / here.summary["teacher"], here.folder, cache), seed=0)
    guidance = {name: arguments.get("guidance") for name, (_, arguments) in made.items()}
    assert guidance == {"teacher": 3.0, "path_node": 2.0, "fake_score": None, "generator": None, "evaluator": None}
    assert load_recipe(NAME, overrides=[*tiny, "teacher.guidance=3"]).teacher.nodes_guidance == 3.0  # type: ignore[union-attr]

    own, fake = made["generator"][1]["settings"], made["fake_score"][1]["settings"]
    assert (own.ema, own.ema_ramp, own.ema_on, own.graph, own.optimiser.betas) == (0.5, 3, "host", "recompute", (0.0, 0.9))
    assert (own.precision, own.checkpointing, fake.precision, fake.checkpointing) == ("bf16", True, "bf16_stochastic", True)
    assert (fake.stages["recording"].optimiser.lr, fake.stages["backtracking"].optimiser.lr) == (0.5, 0.25)
    assert (fake.stages["recording"].updates, fake.stages["backtracking"].updates) == (1, 3)
    assert (fake.fit_noise.low, fake.score_noise.low, fake.weighting, fake.sigma_data) == (7, 20, "score_difference", None)
    student = own.spec
    bar = float(diffusers().DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod[999])
    assert (student.unit_noise, student.sigma_init) == (True, pytest.approx(math.sqrt((1 - bar) / bar), rel=1e-4))

    x0, batch = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Batch(0, "backtracking", 0, 0, 2)
    for name, (kind, arguments) in list(made.items())[:2]:
        role = kind(**arguments)
        if name == "path_node":
            role.load(1)
        else:
            drawn = role.draw(Drawn(torch.empty(2, 4, 8, 8), torch.tensor([3, 5])), seed=0, steps=2).x
            z = Batch(0, "draw", 0, 0, 2).normal("z", (4, 8, 8))
            by_hand = draw_from_teacher(role.denoiser, z, torch.tensor([3, 5]), steps=2, guidance=3.0)
            torch.testing.assert_close(drawn, by_hand, rtol=1e-3, atol=1e-3)
            alone = draw_from_teacher(role.denoiser, z, torch.tensor([3, 5]), steps=2)
            assert (alone - drawn).norm() > 0.05 * drawn.norm()
        denoiser, scale = role.denoiser, arguments["guidance"]
        assert {weight.dtype for weight in denoiser.parameters() if weight.ndim > 1} == {torch.bfloat16}
        noisy, told = add_noise(x0, batch, law=recipe.backtracking.noise, tag=SCORE_TAG), torch.tensor([3, 5])
        with torch.no_grad():
            unguided, towards = (denoiser(noisy.x_t, noisy.sigma, each) for each in (torch.full((2,), -1), told))
        variance, guide = noisy.sigma.view(-1, 1, 1, 1) ** 2, (scale - 1) * (towards - unguided)
        given = role.score(Sample(batch, x0, told, 0)).score
        assert given.dtype == torch.float32
        looked_at = role.score_at(Probe(noisy.x_t, noisy.sigma, told), at_once=2)
        assert (looked_at - given).norm() < 0.02 * given.norm()
        assert (given - (towards + guide - noisy.x_t) / variance).norm() < 0.02 * given.norm()
        assert (guide / variance).norm() > 0.05 * given.norm(), "it matters"


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
        play(storage, override, "name=other")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (storage / "other").exists()


def test_samples_are_images_of_the_prompts_asked_for(here: disback_ray.RunResult, storage: Path, command: Any) -> None:
    """The same with a prompt's number as with the prompt itself; and what `run` drew."""
    few = (Path(disback_ray.__file__).parent / "configs" / "prompts" / "few.txt").read_text().splitlines()
    numbered = here.generate(3, seed=5, labels=[0, 4, 11])
    assert numbered.shape == (3, 3, 16, 16)
    told = here.generate(3, seed=5, prompts=[few[0], few[4], few[11]])
    torch.testing.assert_close(told, numbered, rtol=1e-3, atol=1e-3)
    assert (here.generate(3, seed=5, prompts=["no", "such", "words"]) - numbered).abs().max() > 1e-3
    said = command(
        "sample", here.folder.uri, "--n", "2", "--prompt", "a cat", "--prompt", "a dog", "--out", str(storage / "x.npz")
    )
    assert said.status == 0
    assert "--prompt, number 2: empty" in command("sample", here.folder.uri, "--prompt", "a", "--prompt", " ").complaint
    assert "82 tokens" in command("sample", here.folder.uri, "--n", "1", "--prompt", "a" * 80).complaint
    pipeline = str(storage / "teachers" / "tiny" / "sd")
    out = str(storage / "x.npz")
    drawn = []
    for guidance in ((), ("--guidance", "8"), ("--guidance", "1")):
        asked = ("--n", "1", "--steps", "2", "--prompt", "a cat", "--out", out, *guidance)
        assert command("sample", pipeline, *asked).status == 0
        drawn.append(np.load(out)["x"])
    assert np.array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[2] - drawn[1]).max() > 1e-3
    asked = ("--n", "1", "--prompt", "a cat", "--guidance")
    assert command("sample", pipeline, *asked, "0.5").complaint == "--guidance 0.5: at least 1, which is none"
    assert "--guidance 3.0: a run's generator" in command("sample", here.folder.uri, *asked, "3").complaint
    assert (
        "this teacher draws what a prompt says: give one, with `sample --prompt`"
        in command("sample", pipeline, "--n", "1").complaint
    )


def test_a_study_is_of_prompts(here: disback_ray.RunResult, storage: Path, tmp_path: Path, command: Any) -> None:
    """Of a file, or those of the run; a pipeline is a side as well. The pictures are those of the prompt below them."""
    few = (Path(disback_ray.__file__).parent / "configs" / "prompts" / "few.txt").read_text().splitlines()
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n" + "a" * 80)
    shutil.copytree(here.folder.local_path, tmp_path / "copy")
    asked = ("study", here.folder.uri, str(tmp_path / "copy"), "--out", str(tmp_path / "study"))
    assert "prompts.txt, line 2: 82 tokens" in command(*asked, "--prompts", str(file)).complaint
    assert not (tmp_path / "study").exists()
    assert "--steps 2: a run's generator" in command(*asked, "--n", "2", "--steps", "2").complaint
    assert "make the very same pictures" in command(*asked, "--n", "2").complaint, "of the same noise"
    generator = Folder.at(tmp_path / "copy" / "generator")
    settings = generator.read_json(SETTINGS)
    moved = {name: tensor + 0.1 for name, tensor in generator.read_tensors("model.safetensors").items()}
    generator.write_json(SETTINGS, settings | {"weights": generator.write_tensors("model.safetensors", moved)})
    assert command(*asked, "--n", "2").status == 0
    shown = studied(tmp_path / "study")
    assert set(shown) == {few[0], few[len(few) // 2]}
    assert all(left != right for left, right in shown.values())

    file.write_text("\n".join(few[4:6]))
    taught = str(storage / "teachers" / "tiny" / "sd")
    asked = ("--prompts", str(file), "--seed", "5", "--out", str(tmp_path / "both"), "--steps", "1")
    assert command("study", here.folder.uri, taught, *asked, "--guidance", "1").status == 0
    pipeline = load_model(taught, steps=1, guidance=1)
    drawn = [model.generate(2, seed=5, prompts=few[4:6]) for model in (here, pipeline)]
    shown = studied(tmp_path / "both")
    assert {text: set(pair) for text, pair in shown.items()} == {
        text: {image_grid(samples[number][None]) for samples in drawn} for number, text in enumerate(few[4:6])
    }


def studied(folder: Path) -> dict[str, list[bytes]]:
    """A study's captions, with their two pictures."""
    shown = json.loads(re.search(r"const pairs = (\[.*\]);", (folder / "study.html").read_text()).group(1))  # type: ignore[union-attr]
    return {pair["caption"]: [base64.b64decode(pair[side].partition(",")[2]) for side in ("left", "right")] for pair in shown}


def test_only_the_adapter_is_kept_and_another_base_is_refused(
    here: disback_ray.RunResult, storage: Path, tmp_path: Path, command: Any
) -> None:
    """The base lies in the storage once, for all runs; what a run keeps of it is its SHA-256."""
    base = (storage / "teachers" / "tiny" / "sd" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    settings = (here.folder / "generator").read_json("generator.json")
    assert settings["base"] == [{"file": "unet/diffusion_pytorch_model.safetensors", "sha256": hashlib.sha256(base).hexdigest()}]
    newest = max(here.folder.local_path.glob("checkpoints/backtracking-*")) / "manifest.json"
    assert json.loads(newest.read_text())["files"]["generator"]["base"] == settings["base"]
    kept = [*here.folder.local_path.glob("generator/*.safetensors"), *here.folder.local_path.glob("checkpoints/*/generator.*")]
    assert {file.name for file in kept} == {"model.safetensors", "raw.safetensors", "generator.safetensors"}
    for file in kept:
        weights = [name for name in load_file(file) if not name.startswith(("optimiser.", "version"))]
        assert weights
        assert all(".lora_" in name for name in weights), file
    shutil.copytree(here.folder.local_path, tmp_path / "run")
    settings["network"]["network"]["pipeline"] = str(tmp_path)
    (Folder.at(tmp_path) / "unet").write("diffusion_pytorch_model.safetensors", base[:-1] + bytes([base[-1] ^ 1]))
    (Folder.at(tmp_path) / "run" / "generator").write_json("generator.json", settings)
    for asked in (("sample", "--n", "1"), ("export", str(tmp_path / "out"), "--to", "safetensors"), ("inspect",)):
        said = command(asked[0], str(tmp_path / "run"), *asked[1:])
        assert "an adapter, and its base is not there" in said.complaint
        assert said.status == 2
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_they_are(here: disback_ray.RunResult, storage: Path) -> None:
    pipeline = inspect(storage / "teachers" / "tiny" / "sd")
    assert pipeline["kind"] == "diffusers' pipeline of Stable Diffusion: teacher.format: stable-diffusion"
    assert pipeline["network"] == "diffusers' UNet2DConditionModel, predicts ε, 1000 times, scaled linear β"
    assert pipeline["images"] == "3 × 16 × 16, in [-1, 1], of latents 4 × 8 × 8 (channels, height, width)"
    assert (pipeline["conditioning"], pipeline["precision"]) == ("prompts", "float32 in the U-Net's file; float32 here")
    assert pipeline["σ"] == "0.0292 … 14.61, of its times"
    lora = storage / "teachers" / "tiny" / "lora"
    assert inspect(lora) == inspect(lora / "pytorch_lora_weights.safetensors") == {
        "kind": "LoRA: student.lora", "network": "adapters on 64 layers, rank 64",
        "parameters": f"{sum(t.numel() for t in load_file(lora / 'pytorch_lora_weights.safetensors').values()):,}",
        "precision": "float32 in the file; float32 here",
    }  # fmt: skip
    run = inspect(here.folder.uri)
    assert run["network"].startswith("diffusers' UNet2DConditionModel, with a LoRA of rank 64, predicts ε")
    assert (run["conditioning"], run["σ"]) == ("prompts, 12 encoded", "one step from σ = 14.61")


def test_the_export_is_a_pipeline_that_gives_the_same_images(here: disback_ray.RunResult, storage: Path, tmp_path: Path) -> None:
    folder = export(here.folder.uri, tmp_path / "pipeline", to="diffusers")
    card = (folder / "README.md").read_text()
    assert '"timesteps": [999], "num_inference_steps": 1, "guidance_scale": 0.0' in card
    pipeline = diffusers().DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a cat", "two dogs in the rain"]
    z = Batch(7, "draw", 0, 0, 2).normal("z", (4, 8, 8))
    theirs = pipeline(
        prompts, latents=z, timesteps=[999], num_inference_steps=1, guidance_scale=0.0, output_type="pt", return_dict=False
    )[0]
    ours = here.generate(2, seed=7, prompts=prompts)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=2e-3)
    lora = export(here.folder.uri, tmp_path / "lora", to="safetensors")
    assert (
        "Samples of 4 × 8 × 8, latents of images of 16 × 16, from prompts, in one evaluation" in (lora / "README.md").read_text()
    )
    told = inspect(lora)
    assert (told["conditioning"], told["network"]) == ("prompts", "LoraConfig of peft")
    assert told["images"] == "3 × 16 × 16, in [-1, 1], of latents 4 × 8 × 8 (channels, height, width)"
    start = diffusers().DiffusionPipeline.from_pretrained(storage / "teachers" / "tiny" / "sd")
    start.load_lora_weights(str(lora), weight_name="model.safetensors")
    start.scheduler = pipeline.scheduler
    start.set_progress_bar_config(disable=True)
    again = start(
        prompts, latents=z, timesteps=[999], num_inference_steps=1, guidance_scale=0.0, output_type="pt", return_dict=False
    )[0]
    torch.testing.assert_close(again, theirs, rtol=0, atol=2e-3)


def test_lower_precision_and_a_lora_as_the_fake_score_play_too(storage: Path, here: disback_ray.RunResult) -> None:
    low = "precision={teacher: bf16, path_node: bf16, fake_score: bf16, generator: bf16}"
    more = (low, "fake_score.lora={rank: 4}", "student.checkpointing=true", "fake_score.checkpointing=true", "name=low")
    run = play(storage, *more)
    assert run.summary["status"] == "complete"
