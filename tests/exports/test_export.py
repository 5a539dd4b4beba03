"""Exports, loaded as their readers would: by diffusers itself, and strictly into the layouts of the official networks."""

import json
import re
import runpy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from disback_ray.actors.generator import Generator, GeneratorSettings
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.cli import main
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.exports.export import Target, export
from disback_ray.hugging_face import diffusers
from disback_ray.inspection import inspect
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, GeneratorSpec, MLPSpec, NetworkSpec, ResNetMLPSpec
from disback_ray.result import load_run
from disback_ray.run_folder import Summary
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, import_teacher
from disback_ray.teachers.consistency import _architecture
from disback_ray.teachers.saved import load_spec, save_denoiser
from disback_ray.tiny import write_ddpm

PARITY = Path(__file__).parents[1] / "parity"


def run_of(
    folder: Path, spec: DenoiserSpec | MLPSpec, *, shape: tuple[int, ...], classes: int = 0, start: Folder | None = None
) -> Path:
    """A run's folder, its generator written by the role itself, at σ_init 2.5."""
    generator = GeneratorSpec(spec, shape, classes, 2.5)
    settings = GeneratorSettings(generator, steps=1, batch=1, optimiser=OptimiserSettings(lr=1e-3), ema=0.0, seed=3)
    run = Folder.at(folder / "run")
    Generator(settings, start=start).export(run / "generator")
    run.write_json("summary.json", asdict(Summary("mine", 7, status="complete", digest="abc")))
    return folder / "run"


def of_denoiser(folder: Path, spec: DenoiserSpec, weights: dict[str, Tensor] | None = None) -> Path:
    kept = Folder.at(folder / "denoiser")
    save_denoiser(kept, spec, weights or spec.build(seed=1).state_dict())
    return run_of(folder, spec, shape=spec.shape, classes=spec.classes, start=kept)


def of_network(network: NetworkSpec, *, shape: tuple[int, ...] = (3, 8, 8), classes: int = 0) -> Callable[[Path], Path]:
    return lambda folder: of_denoiser(folder, DenoiserSpec(network, shape, classes, 0.5))


def of_ddpm(folder: Path, **changes: Any) -> Path:
    write_ddpm(folder / "ddpm", **changes)
    kept = import_teacher(Folder.at(folder / "cache"), str(folder / "ddpm"), format="diffusers", expected=Expected())
    spec = load_spec(kept)
    return run_of(folder, spec, shape=spec.shape, classes=spec.classes, start=kept)


def edm(name: str) -> tuple[EDMSpec, dict[str, Tensor], dict[str, Tensor]]:
    """A network of the official code: its settings, its state dict, and what it computes."""
    with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {key.removeprefix("state."): value.float() for key, value in tensors.items() if key.startswith("state.")}
    return EDMSpec(facts.get("precond", ""), json.loads(facts.get("init_kwargs", "{}"))), weights, tensors


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the README's own lines give, run in the folder: those that make the noise first."""
    use, *rest = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text("utf-8"), flags=re.S)
    monkeypatch.chdir(folder)
    script = folder.parent / "card.py"
    script.write_text("\n".join([*rest, use]), "utf-8")
    return runpy.run_path(str(script))


# ---- a DDPM as a pipeline of diffusers


def of_consistency(folder: Path, name: str = "cm_cond", scalings: str = "boundary") -> Path:
    """With the official code's weights, of heads of 16 channels."""
    _, weights, _ = edm(name)
    arguments = json.loads(json.dumps(_architecture(weights, head_channels=16)))
    spec = DenoiserSpec(ConsistencySpec(scalings, arguments), (3, 16, 16), arguments["num_classes"], 0.5)  # type: ignore[arg-type]
    return of_denoiser(folder, spec, {f"model.{key}": value for key, value in weights.items()})


def of_ddpm_of_unit_noise(folder: Path) -> Path:
    """As student.init_timestep makes it: D(√(1 + σ²) z, σ)."""
    settings = of_ddpm(folder) / "generator" / "generator.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"unit_noise": True}))
    return folder / "run"


DRAWN: dict[str, tuple[Callable[[Path], Path], int]] = {
    "DDPM": (of_ddpm, 0),
    "DDPM of v with classes": (lambda folder: of_ddpm(folder, classes=7, prediction="v_prediction"), 7),
    "DDPM of x_0": (lambda folder: of_ddpm(folder, prediction="sample"), 0),
    "DDPM of unit noise": (of_ddpm_of_unit_noise, 0),
    "consistency with classes": (of_consistency, 1000),
    "consistency": (lambda folder: of_consistency(folder, "cm_uncond_lsun_style"), 0),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, under numpy 2
@pytest.mark.parametrize("kind", DRAWN)
def test_the_readme_s_lines_draw_what_sample_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    make, classes = DRAWN[kind]
    run = make(tmp_path)
    out = export(run, tmp_path / "new" / "pipeline", to="diffusers")
    made = run_card(out, monkeypatch)
    ours = (load_run(run).generate(4, seed=0) / 2 + 0.5).clamp(0, 1)
    assert ours.std() > 0.05, "it says something"
    theirs = np.stack([np.asarray(image) for image in made["images"]])
    pixels = (ours * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(theirs - pixels).max() <= 1, "rounded from numbers that are the same to 1e-5"
    assert (theirs == pixels).mean() > 0.99
    exact = made["pipeline"](
        batch_size=4, latents=made["latents"](0, 4), output_type="pt",
        class_labels=classes_evenly(4, classes).tolist() if classes else None,
    ).images  # fmt: skip
    torch.testing.assert_close(exact, ours, rtol=0, atol=2e-5)


def test_the_readme_s_noise_is_that_of_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, MLPSpec(width=4), shape=(2,))
    latents = run_card(export(run, tmp_path / "out", to="safetensors"), monkeypatch)["latents"]
    for seed, count in ((0, 1), (5, 64), (5, 150)):
        assert torch.equal(latents(seed, count), Batch(seed, "draw", 0, 0, count).normal("z", (2,)))


# ---- weights in their owners' layout


@pytest.mark.parametrize("name", ["edm_ddpmpp_uncond", "ve_ncsnpp_uncond", "edm_adm_cond", "vp_ddpmpp_uncond"])
@torch.no_grad()
def test_edm_s_networks_have_the_official_names_and_compute_the_official_numbers(tmp_path: Path, name: str) -> None:
    spec, weights, vectors = edm(name)
    classes = vectors["labels"].shape[1] if "labels" in vectors else 0
    run = of_denoiser(tmp_path, DenoiserSpec(spec, (3, 16, 16), classes, 0.5), weights)
    out = export(run, tmp_path / "out", to="state-dict")
    found = torch.load(out / "model.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        key: tuple(value.shape) for key, value in weights.items()
    }
    facts = json.loads((out / "model.json").read_text("utf-8"))
    assert facts["network"]["class"] == spec.precond
    network = build_edm(facts["network"]["class"], facts["network"]["arguments"]).eval()
    network.load_state_dict(found, strict=True)
    theirs = vectors["denoised"].float()
    assert (network(vectors["x"].float(), vectors["sigma"].float(), vectors.get("labels")) - theirs).norm() < 1e-4 * theirs.norm()


@torch.no_grad()
def test_our_own_ddpmpp_is_edm_s(tmp_path: Path) -> None:
    ours = DenoiserSpec(DDPMppSpec(channels=8, multipliers=(1, 2), attention=(4,)), (1, 8, 8), 3, 0.4)
    out = export(of_denoiser(tmp_path, ours), tmp_path / "out", to="state-dict")
    facts = json.loads((out / "model.json").read_text("utf-8"))
    network = build_edm(facts["network"]["class"], facts["network"]["arguments"]).eval()
    network.load_state_dict(torch.load(out / "model.pt", weights_only=True), strict=True)
    z, labels, sigma = torch.randn(4, 1, 8, 8), torch.eye(3)[[0, 1, 2, 0]], torch.full((4,), 2.5)
    _, generator = load_run(tmp_path / "run").generator()
    assert torch.equal(network(2.5 * z, sigma, labels), generator(z, torch.tensor([0, 1, 2, 0])))
    assert facts["one_step"] == "x_0 = D(2.5 z, 2.5, one-hot labels)"


@pytest.mark.parametrize("name", ["cm_cond", "cm_uncond_lsun_style"])
def test_openai_s_u_net_has_its_official_key_layout(tmp_path: Path, name: str) -> None:
    spec, weights, _ = edm(name)
    arguments = _architecture(weights, head_channels=16)
    run = of_consistency(tmp_path, name)
    out = export(run, tmp_path / "out", to="state-dict")
    found = torch.load(out / "model.pt", weights_only=True)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    ConsistencyUNet(**arguments).load_state_dict(found, strict=True)
    theirs = json.loads((out / "model.json").read_text("utf-8"))["network"]["arguments"]
    asked = spec.arguments  # of their script, which makes the constructor's of them
    side = asked["image_size"]
    assert theirs == {
        "image_size": side, "in_channels": 3, "out_channels": 3, "model_channels": asked["num_channels"],
        "num_res_blocks": asked["num_res_blocks"], "channel_mult": [int(each) for each in asked["channel_mult"].split(",")],
        "attention_resolutions": [side // int(each) for each in asked["attention_resolutions"].split(",")],
        "num_head_channels": asked["num_head_channels"], "num_classes": 1000 if asked["class_cond"] else None,
        "use_scale_shift_norm": asked["use_scale_shift_norm"], "resblock_updown": asked["resblock_updown"],
    }  # fmt: skip


@torch.no_grad()
def test_a_ddpm_s_one_step_is_as_its_facts_say(tmp_path: Path) -> None:
    run = of_ddpm_of_unit_noise(tmp_path)
    out = export(run, tmp_path / "out", to="state-dict")
    facts = json.loads((out / "model.json").read_text("utf-8"))
    scale, sigma = map(float, re.match(r"x_0 = D\((\S+) z, (\S+)\): the U-Net predicts epsilon ", facts["one_step"]).groups())  # type: ignore[union-attr]
    unet = diffusers().UNet2DModel(**facts["network"]["arguments"]).eval()
    unet.load_state_dict(torch.load(out / "model.pt", weights_only=True))
    bars = diffusers().DDPMScheduler().alphas_cumprod
    time = int(((1 - bars) / bars).sqrt().sub(sigma).abs().argmin())
    x = scale * Batch(0, "draw", 0, 0, 2).normal("z", (3, 8, 8))
    x0 = x - sigma * unet(x / (1 + sigma**2) ** 0.5, time).sample
    torch.testing.assert_close(x0, load_run(run).generate(2, seed=0), rtol=0, atol=1e-4)


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an MLP": (lambda folder: run_of(folder, MLPSpec(width=4), shape=(2,)), "MLP"),
    "a residual MLP": (of_network(ResNetMLPSpec(width=4, blocks=1), shape=(2,)), "ResNetMLP"),
    "a DDPM": (of_ddpm, "UNet2DModel"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_hold_the_same_weights_as_the_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    make, name = KINDS[kind]
    run = make(tmp_path)
    out, other = export(run, tmp_path / "out", to="safetensors"), export(run, tmp_path / "other", to="state-dict")
    weights, same = load_file(out / "model.safetensors"), torch.load(other / "model.pt", weights_only=True)
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[key], same[key]) for key in same)
    facts = json.loads((out / "model.json").read_text("utf-8"))
    assert (facts["recipe"], facts["seed"], facts["network"]["class"]) == ("mine", 7, name)
    module = {"diffusers": "diffusers.models.unets.unet_2d"}.get(facts["network"]["library"], facts["network"]["library"])
    loaded = getattr(__import__(module, fromlist=[name]), name)(**facts["network"]["arguments"])
    loaded.load_state_dict(run_card(out, monkeypatch)["weights"], strict=True)


# ---- what is refused, and that nothing is left of it


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "EDM": (of_network(DDPMppSpec(channels=8, multipliers=(1,))), r"no class of diffusers' computes this network \(DDPMpp\)"),
    "an MLP": (lambda folder: run_of(folder, MLPSpec(width=4), shape=(2,)), r"this network \(MLP\).*--to state-dict"),
    "one channel": (lambda folder: of_ddpm(folder, in_channels=1, out_channels=1), "3 channels, and these are 1 × 8 × 8"),
    "not square": (lambda folder: of_ddpm(folder, sample_size=[8, 16]), "square images.*3 × 8 × 16"),
    "a diffusion model's scalings": (lambda folder: of_consistency(folder, scalings="standard"), "these are 'standard'"),
    "a table of times": (
        lambda folder: of_ddpm(folder, time_embedding_type="learned", num_train_timesteps=1000),
        "an entry for each time",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_diffusers_can_not_hold_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, says = REFUSED[kind]
    run = make(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=says) as caught:
        export(run, tmp_path / "out", to="diffusers")
    assert str(caught.value).startswith("--to diffusers: ")
    assert str(caught.value).isprintable()
    assert set(tmp_path.iterdir()) == before


@pytest.fixture
def points(tmp_path: Path) -> Path:
    return run_of(tmp_path, MLPSpec(width=4), shape=(2,))


def test_it_writes_over_nothing(points: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for name, says in (("full", "full: not empty"), ("full/mine.txt", "is a file"), ("full/mine.txt/out", "can't be written")):
        with pytest.raises(ConfigError, match=says):
            export(points, tmp_path / name, to="safetensors")
    with pytest.raises(ConfigError, match="a folder of this machine"):
        export(points, "s3://bucket/out", to="safetensors")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (export(points, tmp_path / "empty", to="safetensors") / "model.safetensors").exists()


def test_a_write_that_fails_half_way_leaves_nothing(points: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from disback_ray.exports import files

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_card", full)  # the last file
    before = set(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="out: can't be written: No space left"):
        export(points, tmp_path / "out", to="state-dict")
    assert set(tmp_path.iterdir()) == before


def test_a_run_without_a_generator_or_with_a_damaged_one(points: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run of disback-ray"):
        export(tmp_path, tmp_path / "out", to="safetensors")
    weights = points / "generator" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="SHA-256"):
        export(points, tmp_path / "out", to="safetensors")
    (points / "generator" / "generator.json").unlink()
    with pytest.raises(CheckpointError, match="no generator yet"):
        export(points, tmp_path / "out", to="safetensors")


@pytest.mark.parametrize("to", Target.__args__)  # type: ignore[attr-defined]
def test_the_command(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(points), str(tmp_path / "out"), "--to", to])
    said = capsys.readouterr()
    if to == "diffusers":
        assert (ended.value.code, said.out) == (2, "")
        assert said.err.startswith("disback-ray: --to diffusers: ")
    else:
        assert (ended.value.code, said.out, said.err) == (0, f"{tmp_path / 'out'}\n", "")
        assert "README.md" in {file.name for file in (tmp_path / "out").iterdir()}
        found = inspect(tmp_path / "out")
        assert (found["kind"], found["points"]) == ("export of a run of mine, for other tools", "of 2 coordinates")
        assert found["network"] == "MLP of disback_ray.networks.mlp"
