"""DDPMs and DDIMs in diffusers' layout, saved by diffusers itself: what diffusers computes and draws, and one line for what is none."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.fuzz import one
from disback_ray import hugging_face
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.hugging_face import diffusers
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, import_teacher
from disback_ray.teachers.diffusers_scheduler import ddim_of
from disback_ray.teachers.drawing import draw_from_teacher
from disback_ray.teachers.hub import diffusers_folder, is_hub_id
from disback_ray.teachers.saved import load_denoiser, load_spec
from disback_ray.tiny import write_ddpm

ANY = Expected()
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional one. Not to be written to."""
    folder = tmp_path_factory.mktemp("ddpm") / "saved"
    write_ddpm(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "ddpm"))


def imported(folder: Path, cache: Path, expected: Expected = ANY) -> Any:
    """The denoiser that a run's roles load."""
    return load_denoiser(import_teacher(Folder.at(cache), str(folder), format="diffusers", expected=expected))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rewrite(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# ---- the network


def old_names(folder: Path) -> None:
    """Files side by side and attention named as before 2023: as google/ddpm-cifar10-32 lies on the Hub."""
    for file in [*folder.glob("*/*")]:
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / Path(WEIGHTS).name)
    for new, old in names.items():
        weights = {key.replace(f".{new}.", f".{old}."): value for key, value in weights.items()}
    assert any(".query." in key for key in weights)
    save_file(weights, folder / Path(WEIGHTS).name)


def pickled(folder: Path) -> None:
    torch.save(
        {key: value.half() for key, value in load_file(folder / WEIGHTS).items()}, folder / "unet/diffusion_pytorch_model.bin"
    )
    (folder / WEIGHTS).unlink()


def in_two_shards(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    for index, keys in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        shard = f"unet/diffusion_pytorch_model-0000{index}-of-00002.safetensors"
        save_file({key: weights[key] for key in keys}, folder / shard)
    (folder / WEIGHTS).unlink()


def beside_half(folder: Path) -> None:
    wrong = {key: torch.zeros_like(value).half() for key, value in load_file(folder / WEIGHTS).items()}
    save_file(wrong, folder / WEIGHTS.replace(".safetensors", ".fp16.safetensors"))


def half_alone(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / WEIGHTS.replace(".safetensors", ".fp16.safetensors"))


@pytest.mark.parametrize("change", [lambda folder: None, old_names, pickled, in_two_shards, beside_half, half_alone])
@torch.no_grad()
def test_the_imported_denoiser_is_diffusers_network(folder: Path, change: Callable[[Path], None]) -> None:
    network = diffusers().UNet2DModel.from_pretrained(folder / "unet")
    alphas = diffusers().DDPMScheduler().alphas_cumprod
    change(folder)
    denoiser = imported(folder, folder.parent / "cache")
    times = torch.tensor([0, 437, 999])
    alpha, sigma = alphas[times].sqrt().view(-1, 1, 1, 1), (1 - alphas[times]).sqrt().view(-1, 1, 1, 1)
    x_vp = noise(3, 3, 8, 8)
    theirs = (x_vp - sigma * network(x_vp, times).sample) / alpha
    ours = denoiser(x_vp / alpha, (sigma / alpha).flatten())
    assert (ours - theirs).norm() < (1e-2 if change is pickled else 1e-4) * theirs.norm()
    assert not denoiser.training


def test_the_folder_is_named_by_what_it_holds_and_imported_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from disback_ray.teachers import checkpoint

    cache = Folder.at(folder.parent / "cache")
    first = import_teacher(cache, str(folder), format="diffusers", expected=ANY)
    spec = load_spec(first)
    assert (spec.shape, spec.classes, spec.sigma_data) == ((3, 8, 8), 0, None)
    monkeypatch.setattr(checkpoint, "read_ddpm_folder", None)  # not read again
    copy = Path(shutil.copytree(folder, folder.parent / "copy"))
    assert import_teacher(cache, str(copy), format="diffusers", expected=ANY) == first
    with pytest.raises(CheckpointError, match=r"classes is 0.*for 10"):
        import_teacher(cache, str(copy), format="diffusers", expected=Expected(classes=10))
    monkeypatch.undo()
    rewrite(copy / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert import_teacher(cache, str(copy), format="diffusers", expected=ANY) != first


def test_settings_of_a_later_version_are_left_out_as_diffusers_leaves_them_out(folder: Path) -> None:
    known = imported(folder, folder.parent / "cache")
    rewrite(folder / "unet/config.json", from_a_later_version=True)
    x, sigma = noise(2, 3, 8, 8), torch.ones(2)
    assert torch.equal(imported(folder, folder.parent / "cache")(x, sigma), known(x, sigma))


def test_what_the_folder_does_not_tell_is_asked_for(folder: Path) -> None:
    rewrite(folder / "unet/config.json", sample_size=None)
    with pytest.raises(CheckpointError, match=r"teacher\.expects\.resolution"):
        imported(folder, folder.parent / "cache")
    assert imported(folder, folder.parent / "cache", Expected(resolution=16))(noise(2, 3, 16, 16), torch.ones(2)).shape[-1] == 16


# ---- DDIM


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_sample": True},
        {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False, "beta_schedule": "scaled_linear"},
        {"timestep_spacing": "trailing", "clip_sample_range": 0.5},
        {"prediction_type": "v_prediction", "clip_sample": False, "timestep_spacing": "linspace"},
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_ten_steps_of_ddim_are_those_of_diffusers_pipeline(folder: Path, settings: dict[str, Any]) -> None:
    pipeline = diffusers().DDIMPipeline(
        diffusers().UNet2DModel.from_pretrained(folder / "unet"), diffusers().DDIMScheduler(**settings)
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    theirs = pipeline(2, torch.Generator().manual_seed(5), num_inference_steps=10, output_type="pt").images
    drawn = draw_from_teacher(imported(folder, folder.parent / "cache"), noise(2, 3, 8, 8, seed=5), None, steps=10)
    # Both are float32, and take x_0 from noise of σ = 157: processors differ by up to 2e-4, other settings by 7e-3.
    assert ((drawn / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 1e-3
    assert theirs.std() > 0.05, "it says something"


def test_what_a_scheduler_does_not_say_is_diffusers_default() -> None:
    """Settings of other schedulers, as SDXL's Euler, say nothing of clipping or of the last step's end."""
    assert ddim_of({}) == ddim_of(diffusers().DDIMScheduler().config)


@torch.no_grad()
def test_a_class_conditional_network_hears_its_class(tmp_path: Path) -> None:
    write_ddpm(tmp_path / "ddpm", classes=4)
    network = diffusers().UNet2DModel.from_pretrained(tmp_path / "ddpm/unet")
    scheduler = diffusers().DDIMScheduler.from_pretrained(tmp_path / "ddpm/scheduler")
    scheduler.set_timesteps(4)
    labels, x = torch.tensor([3, 0]), noise(2, 3, 8, 8)
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, time, class_labels=labels).sample, time, x).prev_sample
    denoiser = imported(tmp_path / "ddpm", tmp_path / "cache", Expected(classes=4))
    drawn = draw_from_teacher(denoiser, noise(2, 3, 8, 8), labels, steps=4)
    assert (drawn - x).abs().max() < 1e-4
    assert (drawn - draw_from_teacher(denoiser, noise(2, 3, 8, 8), labels.flip(0), steps=4)).abs().max() > 1e-3


def test_heun_takes_levels_of_the_table_too(saved: Path, tmp_path: Path) -> None:
    denoiser, asked = imported(saved, tmp_path), []
    denoiser.model.register_forward_pre_hook(lambda _, given: asked.append(float(given[1][0])))
    drawn = draw_from_teacher(denoiser, noise(1, 3, 8, 8), None, steps=4, sampler="heun")
    assert torch.isfinite(drawn).all()
    assert len(asked) == 7
    assert all(time == round(time) for time in asked)


# ---- the Hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of this machine, empty, and no way to the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_is_one_line_where_the_hub_is_not(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^google/ddpm-cifar10-32: no such folder here.*Hub \(.*\); name a folder"
    ) as caught:
        import_teacher(Folder.at(tmp_path / "cache"), "google/ddpm-cifar10-32", format="diffusers", expected=ANY)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "cache").exists()


def test_a_hub_id_that_was_had_before_is_found_in_its_cache(offline: Path, saved: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    shutil.copytree(saved, offline / "models--someone--ddpm" / "snapshots" / commit)
    (offline / "models--someone--ddpm" / "refs").mkdir()
    (offline / "models--someone--ddpm" / "refs" / "main").write_text(commit)
    cache = Folder.at(tmp_path / "cache")
    ours = import_teacher(cache, "someone/ddpm", format="diffusers", expected=ANY)
    assert ours == import_teacher(cache, str(saved), format="diffusers", expected=ANY)


def test_what_is_here_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("google/ddpm-cifar10-32")
    assert not any(map(is_hub_id, ["./x", "/a/b", "a/b/c", "a", "~/x", "s3://a/b", "../x"]))
    (tmp_path / "google").mkdir()
    assert not is_hub_id("google/ddpm-cifar10-32"), "a slip in a path's end asks nobody"
    assert is_hub_id("google/ddpm-cifar10-32", beside=tmp_path / "google")
    with pytest.raises(CheckpointError, match="no such folder"), diffusers_folder("google/ddpm-cifar10-32"):
        pass


# ---- what is none


def cut(file: str, *, to: int = -100) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:to]) and None


def scheduler(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "scheduler/scheduler_config.json", **changes)


def unet(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "unet/config.json", **changes)


def without_bias(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_out.bias"]
    save_file(weights, folder / WEIGHTS)


def a_weight_twice(folder: Path) -> None:
    save_file({"conv_out.bias": torch.zeros(3)}, folder / "unet/more.safetensors")


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"conv_out.bias": weights["conv_out.bias"] * float("nan")}, folder / WEIGHTS)


def hostile(folder: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder.parent / "executed"),)

    (folder / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Call()}, folder / "unet/diffusion_pytorch_model.bin")


BAD: dict[str, tuple[Callable[[Path], None], Expected, str]] = {
    "weights cut off": (cut(WEIGHTS), ANY, "damaged"),
    "config cut off": (cut("unet/config.json", to=-9), ANY, r"config\.json is damaged"),
    "scheduler cut off": (cut("scheduler/scheduler_config.json", to=9), ANY, r"scheduler_config\.json is damaged"),
    "a config without an end": (
        lambda folder: (folder / "unet/config.json").write_text('{"a": ' + "[" * 100_000) and None,
        ANY,
        r"config\.json is damaged",
    ),
    "a list for a config": (lambda folder: (folder / "unet/config.json").write_text("[]") and None, ANY, "holds no names"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), ANY, "has no weights"),
    "no config": (lambda folder: (folder / "unet/config.json").unlink(), ANY, r"has no config\.json"),
    "no scheduler": (lambda folder: shutil.rmtree(folder / "scheduler"), ANY, r"has no scheduler_config\.json"),
    "another network": (unet(_class_name="UNet2DConditionModel"), ANY, "UNet2DConditionModel', not UNet2DModel"),
    "another width": (unet(block_out_channels=[16, 64]), ANY, "damaged, or not those of its config"),
    "another depth": (unet(layers_per_block=2), ANY, "damaged, or not those of its config"),
    "a weight too few": (without_bias, ANY, "don't fit its config.*missing keys: 1, the first is 'conv_out.bias'"),
    "a weight twice": (a_weight_twice, ANY, r"more\.safetensors: weight 'conv_out\.bias' is in another file too"),
    "a size that can't be": (unet(sample_size=9), ANY, "can't take images of 9 × 9 pixels"),
    "a size that is none": (unet(sample_size="8"), ANY, "its sample_size is '8', and no number of pixels"),
    "a setting that nobody meant": (unet(freq_shift=[]), ANY, "can't take images of 8 × 8 pixels"),
    "a learned variance": (unet(out_channels=6), ANY, "damaged, or not those"),
    "told σ": (unet(time_embedding_type="fourier"), ANY, "fourier|don't fit|damaged"),
    "σ of flow matching": (scheduler(beta_schedule=None, _class_name="FlowMatch"), ANY, "FlowMatch.*no schedule of β"),
    "an unknown schedule": (scheduler(beta_schedule="sigmoid"), ANY, "beta_schedule is 'sigmoid'"),
    "noise without an end": (scheduler(rescale_betas_zero_snr=True), ANY, "rescale_betas_zero_snr"),
    "β that fall below 0": (scheduler(beta_end=-0.02), ANY, "no schedule of rising noise"),
    "a table that fills the memory": (scheduler(num_train_timesteps=10**9), ANY, "steps: 1000000000: 100000 at most"),
    "a range without an inside": (scheduler(clip_sample_range=-1), ANY, "clip_sample_range -1.0"),
    "no numbers": (not_a_number, ANY, "conv_out.bias has NaN or Inf"),
    "an unknown prediction": (scheduler(prediction_type="flow"), ANY, "prediction_type is 'flow'"),
    "another resolution": (lambda folder: None, Expected(resolution=32), "resolution is 8.*for 32"),
    "classes": (lambda folder: None, Expected(classes=10), "classes is 0.*for 10"),
    "hostile": (hostile, ANY, r"model\.bin: it asks for posix\.mkdir, which is refused"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_folder_is_one_line_and_nothing_is_written(folder: Path, kind: str) -> None:
    damage, expected, says = BAD[kind]
    damage(folder)
    before = set(folder.parent.iterdir())
    with pytest.raises(CheckpointError, match=says) as caught:
        import_teacher(Folder.at(folder.parent / "cache"), str(folder), format="diffusers", expected=expected)
    assert str(caught.value).startswith(f"{folder}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert set(folder.parent.iterdir()) == before


def test_a_folder_of_something_else_or_of_nothing(tmp_path: Path) -> None:
    for where, says in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, r"no folder of diffusers' \(it has no model_index\.json"),
    ):
        (tmp_path / "x").write_text("")
        with pytest.raises(CheckpointError, match=says):
            import_teacher(Folder.at(tmp_path / "cache"), str(where), format="diffusers", expected=ANY)


def test_without_diffusers_it_says_what_to_install(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="diffusers")

    monkeypatch.setattr(hugging_face.importlib, "import_module", missing)
    hugging_face._imported.cache_clear()
    with pytest.raises(ConfigError, match=r"diffusers is not installed.*pip install 'disback-ray\[diffusers\]'"):
        import_teacher(Folder.at(tmp_path / "cache"), str(saved), format="diffusers", expected=ANY)
    hugging_face._imported.cache_clear()


@pytest.mark.parametrize(("name", "cases"), [("ddpm", 10), ("pipeline", 15), ("lora", 3)])
def test_damaged_folders_are_read_or_refused_in_one_line(name: str, cases: int) -> None:
    assert not one(name, cases=cases).faults
