"""Stable Diffusion, SDXL and LCM-LoRA on small random pipelines that diffusers saved, with diffusers' own pipelines as the oracle."""

import json
import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from disback_ray.actors.generator import Generator, GeneratorSettings
from disback_ray.actors.prompt_encoder import PromptEncoder, encode_all
from disback_ray.algorithms.learner import trained
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.records import Drawn, Field
from disback_ray.data.prompts import PromptsData
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.exports.student import Student
from disback_ray.exports.text_pipeline import lora_weights, without_variant
from disback_ray.hugging_face import diffusers
from disback_ray.inspection import inspect
from disback_ray.networks.prompt_table import SHARD, PromptTable
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec, OneStep
from disback_ray.networks.text_unet import LORA_MARK, TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.drawing import draw_from_teacher
from disback_ray.teachers.guidance import guided
from disback_ray.teachers.latents import LatentDecoder
from disback_ray.teachers.saved import load_denoiser, load_spec
from disback_ray.teachers.saved_generator import load_generator
from disback_ray.teachers.text_teacher import ExpectedPipeline, import_text_teacher, is_encoded, save_lora_student
from disback_ray.tiny_pipelines import Family, write_lora, write_pipeline

PROMPTS = ["the cat", "a dog in the rain", "a very small house, red"]
KINDS: dict[str, tuple[Family, str]] = {
    "sd": ("sd", "epsilon"),
    "sdxl": ("sdxl", "epsilon"),
    "sd, v": ("sd", "v_prediction"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A pipeline's folder, by its kind."""

    @cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("pipeline")
        write_pipeline(folder, KINDS[kind][0], prediction=KINDS[kind][1])
        return folder

    return make


@pytest.fixture(scope="module")
def taught(saved: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folder]:
    """The folder of a pipeline's denoiser, with PROMPTS encoded."""
    place = Folder.at(tmp_path_factory.mktemp("cache"))

    @cache
    def make(kind: str) -> Folder:
        return teach(place, saved(kind), PROMPTS)

    return make


def teach(place: Folder, pipeline: Path, prompts: list[str], *, embeddings: Literal["float32", "float16"] = "float32") -> Folder:
    file = pipeline.parent / f"{pipeline.name}.txt"
    file.write_text("\n".join(prompts))
    data = PromptsData(str(file), embeddings=embeddings)
    folder = import_text_teacher(place, str(pipeline), data, ExpectedPipeline())
    network = network_of(folder)
    made = PromptEncoder(Folder(network.prompts), Folder(network.pipeline), embeddings=embeddings)
    encode_all(made, wait=lambda value: value, report=lambda done, shards: None)
    assert is_encoded(network)
    return folder


def network_of(folder: Folder) -> TextUNetSpec:
    network = load_spec(folder).network
    assert isinstance(network, TextUNetSpec)
    return network


def pipe_of(folder: Path) -> Any:
    pipe = diffusers().DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_prompts_are_encoded_as_the_pipeline_does(kind: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """More of them than a shard holds. The last numbers are no prompt: zeros for SDXL, the encoded empty one for SD."""
    prompts = [f"the cat {number}" for number in range(SHARD + 3)]
    where = shutil.copytree(saved(kind), tmp_path / "pipeline")
    index = json.loads((where / "model_index.json").read_text())
    index.pop("force_zeros_for_empty_prompt", None)  # zeros by default, for SDXL
    (where / "model_index.json").write_text(json.dumps(index))
    network = network_of(teach(Folder.at(tmp_path / "cache"), where, prompts))
    table = PromptTable(Folder(network.prompts))
    chosen = torch.tensor([0, 7, SHARD - 1, SHARD, SHARD + 2, -1])
    found = table.rows(chosen)
    pipe = pipe_of(where)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            [prompts[i] for i in chosen[:-1]], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    torch.testing.assert_close(found.tokens, torch.cat([theirs[0], theirs[1][:1]]), rtol=0, atol=1e-5)
    if kind == "sdxl":
        assert found.pooled is not None
        torch.testing.assert_close(found.pooled, torch.cat([theirs[2], theirs[3][:1]]), rtol=0, atol=1e-5)
    assert found.tokens[:-1].std(0).max() > 0.01, "prompts differ"


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_with_guidance_are_the_pipeline_s(
    kind: str, saved: Callable[[str], Path], taught: Callable[[str], Folder]
) -> None:
    z = latents(3)
    drawn = draw_from_teacher(load_denoiser(taught(kind)), z, torch.arange(3), steps=4, guidance=5.0)
    pipe = pipe_of(saved(kind))
    theirs = pipe(PROMPTS, latents=z.clone(), num_inference_steps=4, guidance_scale=5.0, output_type="latent").images
    torch.testing.assert_close(drawn, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    without = draw_from_teacher(load_denoiser(taught(kind)), z, torch.arange(3), steps=4)
    assert (without - theirs).abs().max() > 0.05 * theirs.abs().max(), "guidance matters"


@pytest.mark.parametrize("kind", ["sdxl", "sd, v"])
@pytest.mark.parametrize("time", [399, 999])
def test_one_step_is_the_pipeline_s_with_lcm_scheduler(
    kind: str, time: int, saved: Callable[[str], Path], taught: Callable[[str], Folder]
) -> None:
    """The student of the authors' code: unit noise, unscaled, at time 399; x̂_0 = (x - √(1-ᾱ) ε̂) / √ᾱ."""
    spec, z = load_spec(taught(kind)), latents(3)
    assert spec.schedule is not None
    student = OneStep(load_denoiser(taught(kind)), sigma_init=float(spec.schedule.sigmas[time]), unit_noise=True)
    pipe = pipe_of(saved(kind))
    pipe.scheduler = diffusers().LCMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(
        PROMPTS, latents=z.clone(), timesteps=[time], num_inference_steps=1, guidance_scale=0.0, output_type="latent"
    ).images
    with torch.no_grad():
        ours = student(z, torch.arange(3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_lcm_lora_is_the_pipeline_s(
    layout: str, saved: Callable[[str], Path], taught: Callable[[str], Folder], tmp_path: Path
) -> None:
    """The published file has kohya's names, with an alpha for each layer."""
    write_lora(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    if layout == "kohya":
        save_file(as_kohya(load_file(file), alpha=8.0), file)
    folder = save_lora_student(taught("sd").parent, taught("sd"), str(tmp_path))
    spec, denoiser, z = load_spec(folder), load_denoiser(folder), latents(3)
    assert spec.schedule is not None
    student = OneStep(denoiser, sigma_init=float(spec.schedule.sigmas[999]), unit_noise=True)
    pipe = pipe_of(saved("sd"))
    pipe.load_lora_weights(str(tmp_path))
    pipe.scheduler = diffusers().LCMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(PROMPTS, latents=z.clone(), num_inference_steps=1, guidance_scale=0.0, output_type="latent").images
    with torch.no_grad():
        ours = student(z, torch.arange(3))
        plain = OneStep(load_denoiser(taught("sd")), sigma_init=student.sigma_init, unit_noise=True)(z, torch.arange(3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert (plain - theirs).abs().max() > 0.01 * theirs.abs().max(), "the LoRA matters"
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in denoiser.named_parameters() if LORA_MARK in name}


def as_kohya(weights: dict[str, torch.Tensor], *, alpha: float) -> dict[str, torch.Tensor]:
    """kohya's names: lora_unet_LAYER.lora_down.weight, with the layer's dots as underscores."""
    converted = {}
    for name, tensor in weights.items():
        layer, _, part = name.removeprefix("unet.").partition(".lora_")
        kohya = f"lora_unet_{layer.replace('.', '_')}"
        converted[f"{kohya}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = tensor.contiguous()
        converted[f"{kohya}.alpha"] = torch.tensor(alpha)
    return converted


def deltas(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a LoRA adds to the weights of each layer, by PEFT."""
    layers = {name: module for name, module in unet.named_modules() if hasattr(module, "lora_A")}
    return {name: layer.get_delta_weight(layer.active_adapters[0]) for name, layer in layers.items()}  # type: ignore[operator, union-attr, index]


def test_each_layer_of_a_lora_has_its_own_rank_and_alpha_and_the_export_too(
    saved: Callable[[str], Path], taught: Callable[[str], Folder], tmp_path: Path
) -> None:
    """(α / rank) B A, from the file by hand; with its α diffusers itself gives attention's layers the other layers'."""
    write_lora(tmp_path)
    file, mixed, expected = tmp_path / "pytorch_lora_weights.safetensors", {}, {}
    plain = load_file(file)
    for turn, name in enumerate(sorted(name for name in plain if ".lora_A." in name)):
        rank, alpha = (64, 16, 8)[turn % 3], (8.0, 24.0)[turn % 2]
        down, up = plain[name][:rank], plain[name.replace("lora_A", "lora_B")][:, :rank]
        mixed |= as_kohya({name: down, name.replace("lora_A", "lora_B"): up}, alpha=alpha)
        expected[name.removeprefix("unet.").partition(".lora_")[0]] = alpha / rank * (up.flatten(1) @ down.flatten(1))
    save_file(mixed, file)
    folder = save_lora_student(taught("sd").parent, taught("sd"), str(tmp_path))
    spec, denoiser = load_spec(folder), load_denoiser(folder)
    one_step = OneStep(denoiser, sigma_init=14.6, unit_noise=True)
    student = Student(GeneratorSpec(spec, spec.shape, spec.classes, 14.6, unit_noise=True), one_step, "mine", 0, "")
    pipe = pipe_of(saved("sd"))
    pipe.load_lora_weights(lora_weights(student))
    for found in (deltas(denoiser.model.unet), deltas(pipe.unet)):  # type: ignore[arg-type]
        assert found.keys() == expected.keys()
        for layer, delta in found.items():
            torch.testing.assert_close(delta.flatten(1), expected[layer], rtol=1e-4, atol=1e-5, msg=layer)


def test_the_average_of_an_adapter_is_what_a_student_draws_with_and_keeps(
    taught: Callable[[str], Folder], tmp_path: Path
) -> None:
    write_lora(tmp_path)
    folder = save_lora_student(taught("sd").parent, taught("sd"), str(tmp_path))
    spec = load_spec(folder)
    student = GeneratorSpec(spec, spec.shape, spec.classes, 14.6, unit_noise=True)
    settings = GeneratorSettings(student, 2, 2, OptimiserSettings(lr=1.0, kind="sgd"), ema=0.15, seed=0)
    role = Generator(settings, start=folder)
    raw = [{name: tensor.clone() for name, tensor in trained(role.network).items()}]
    for step in range(2):
        batch = Batch(0, "backtracking", step, 0, 2)
        role.propose(batch)
        role.descend(Field(batch, 0.1 * batch.normal("field", spec.shape), 1.0))
        role.commit(step)
        raw.append({name: tensor.clone() for name, tensor in trained(role.network).items()})
    first = {name: 0.1 * raw[0][name] + 0.9 * raw[1][name] for name in raw[0]}  # the decay's ramp begins at 1 / 10
    averaged = {name: 0.15 * first[name] + 0.85 * raw[2][name] for name in raw[0]}
    wanted = Drawn(torch.empty(2, *spec.shape), torch.tensor([0, 2]))
    drawn = role.draw(wanted, seed=5).x
    role.export(Folder.at(tmp_path / "generator"))
    _, kept = load_generator(Folder.at(tmp_path / "generator"), trust_modules=False)
    z = Batch(5, "draw", 0, 0, 2).normal("z", spec.shape)
    with torch.no_grad():
        torch.testing.assert_close(kept(z, wanted.condition), drawn, rtol=1e-4, atol=1e-4)
        by_hand = torch.func.functional_call(role.network, averaged, (z, wanted.condition))
        torch.testing.assert_close(by_hand, drawn, rtol=1e-4, atol=1e-4)
        assert (role.network(z, wanted.condition) - drawn).abs().max() > 1e-2, "the average lags behind"


def test_guidance_is_the_formula_and_none_is_the_denoiser(taught: Callable[[str], Folder]) -> None:
    denoiser, x = load_denoiser(taught("sd")), latents(3)
    sigma, condition = torch.tensor([0.5, 2.0, 9.0]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        with_it, without = denoiser(x, sigma, condition), denoiser(x, sigma, torch.full((3,), -1))
        torch.testing.assert_close(
            guided(denoiser, 3.0)(x, sigma, condition), without + 3 * (with_it - without), rtol=1e-4, atol=1e-4
        )
    assert guided(denoiser, 1.0) is denoiser


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_images_are_the_pipeline_s(kind: str, saved: Callable[[str], Path], taught: Callable[[str], Folder]) -> None:
    pipe, z = pipe_of(saved(kind)), latents(2)
    ours = LatentDecoder(network_of(taught(kind)))(z)
    with torch.no_grad():
        theirs = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours.shape == (2, 3, 16, 16)


def test_half_precision_and_several_files_are_read(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """As large pipelines are published: .fp16. in the name, or shards with an index; the numbers are float32 here."""
    half = tmp_path / "half"
    pipe = pipe_of(saved("sd"))
    pipe.unet.half()
    pipe.unet.save_pretrained(half / "unet", max_shard_size="100KB")
    shutil.copytree(saved("sd"), half, dirs_exist_ok=True, ignore=shutil.ignore_patterns("unet"))
    assert len(list((half / "unet").glob("*.safetensors"))) > 1
    for part in ("vae/diffusion_pytorch_model", "text_encoder/model"):
        (half / f"{part}.safetensors").rename(half / f"{part}.fp16.safetensors")
    folder = teach(Folder.at(tmp_path / "cache"), half, PROMPTS, embeddings="float16")
    prompts = Folder(network_of(folder).prompts).local_path
    kept = [tensor for file in prompts.glob("*.safetensors") for tensor in load_file(file).values()]
    assert {tensor.dtype for tensor in kept} == {torch.float16}
    assert PromptTable(Folder.at(prompts)).rows(torch.tensor([0])).tokens.dtype == torch.float32
    assert LatentDecoder(network_of(folder))(latents(1)).shape == (1, 3, 16, 16)
    assert without_variant("text_encoder/model.fp16.safetensors") == "text_encoder/model.safetensors"
    assert without_variant("text_encoder/model.safetensors.index.fp16.json") == "text_encoder/model.safetensors.index.json"
    for kept in ("unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "model_index.json", "vae/config.json"):
        assert without_variant(kept) == kept
    ours = load_denoiser(folder).state_dict()
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(ours[f"model.unet.{name}"], tensor.float()), name


def _changed(file: str, **keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | keys))

    return change


def _half(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:40]) and None


def _pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def _indexed(shards: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
        whole.unlink()
        whole.with_name(f"{whole.name}.index.json").write_text(json.dumps({"weight_map": shards}))

    return change


def _cut(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_half("text_encoder/config.json"), "text_encoder/config.json: damaged: no JSON"),
        (_half("vae/config.json"), "vae/config.json: damaged: no JSON"),
        (_half("tokenizer/tokenizer_config.json"), "tokenizer/tokenizer_config.json: damaged: no JSON"),
        (_changed("model_index.json", _class_name="FluxPipeline"), "a 'FluxPipeline'; those of StableDiffusionPipeline and "),
        (_changed("unet/config.json", in_channels=9), "in_channels 9, out_channels 4: it takes more than latents"),
        (_changed("unet/config.json", addition_embed_type="text_time"), "is not that of Stable Diffusion"),
        (_changed("unet/config.json", time_cond_proj_dim=8), "time_cond_proj_dim 8: it takes more"),
        (_changed("unet/config.json", act_fn="x"), "unet/config.json: diffusers can't build it: activation function x"),
        (_changed("vae/config.json", block_out_channels=None), "block_out_channels None are no list of levels"),
        (_changed("scheduler/scheduler_config.json", steps_offset=None), "its scheduler's settings are damaged"),
        (_changed("scheduler/scheduler_config.json", rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
        (_pickled, "unet/diffusion_pytorch_model.bin: a pickle, which is not read"),
        (_cut, "text_encoder/model.safetensors: damaged"),
        (_indexed({"a": 5}), "unet/diffusion_pytorch_model.safetensors.index.json: names no files beside it"),
        (_indexed(["a"]), "unet/diffusion_pytorch_model.safetensors.index.json: names no files beside it"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "unet/config.json: damaged: no JSON"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "vae: has no configuration"),
    ],
)
def test_a_pipeline_that_can_t_be_used_is_refused(
    change: Callable[[Path], None], message: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(saved("sd"), tmp_path / "pipeline")
    change(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a cat")
    place = Folder.at(tmp_path / "cache")
    with pytest.raises(CheckpointError) as error:
        import_text_teacher(place, str(tmp_path / "pipeline"), PromptsData(str(tmp_path / "prompts.txt")), ExpectedPipeline())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not place.names(), "nothing half-written"


def test_a_pipeline_s_own_empty_prompt_and_latents_count(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """SDXL's index may say that 'no prompt' is the encoded empty one, and a VAE that its latents have a mean and a spread."""
    where = tmp_path / "own"
    shutil.copytree(saved("sdxl"), where)
    _changed("model_index.json", force_zeros_for_empty_prompt=False)(where)
    _changed("vae/config.json", latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 1.0, 0.5])(where)
    folder = teach(Folder.at(tmp_path / "cache"), where, PROMPTS)
    drawn = draw_from_teacher(load_denoiser(folder), latents(3), torch.arange(3), steps=2, guidance=5.0)
    ours = (LatentDecoder(network_of(folder))(drawn) / 2 + 0.5).clamp(0, 1)
    theirs = pipe_of(where)(PROMPTS, latents=latents(3), num_inference_steps=2, guidance_scale=5.0, output_type="pt").images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_what_the_recipe_expects_and_prompts_that_are_too_long(saved: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n" + "a" * 80)
    place = Folder.at(tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"its family is sd, and the recipe is for sdxl \(teacher.expects.family\)"):
        import_text_teacher(place, str(saved("sd")), PromptsData(str(file)), ExpectedPipeline("sdxl"))
    with pytest.raises(CheckpointError, match=r"its pixels is 16, and the recipe is for 512"):
        import_text_teacher(place, str(saved("sd")), PromptsData(str(file)), ExpectedPipeline(pixels=512))
    with pytest.raises(ConfigError, match=r"prompts.txt, line 2: 82 tokens, and the text encoder takes 77"):
        import_text_teacher(place, str(saved("sd")), PromptsData(str(file)), ExpectedPipeline())
    assert not place.names()


def test_a_lora_for_another_base_and_a_damaged_one(taught: Callable[[str], Folder], tmp_path: Path) -> None:
    write_lora(tmp_path)
    place, other = taught("sd").parent, taught("sdxl")
    before = place.names()
    with pytest.raises(CheckpointError, match=r"a LoRA for another base: .* has another size there"):
        save_lora_student(place, other, str(tmp_path))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    weights = load_file(file)
    save_file(
        weights | {"unet.nowhere.lora_A.weight": torch.zeros(64, 4), "unet.nowhere.lora_B.weight": torch.zeros(4, 64)}, file
    )
    with pytest.raises(CheckpointError, match="a LoRA for another base: it has 130 weights, and this U-Net a place for 128"):
        save_lora_student(place, taught("sd"), str(file))
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * float("nan")}, file)
    with pytest.raises(CheckpointError, match="has NaN or Inf"):
        save_lora_student(place, taught("sd"), str(file))
    with pytest.raises(CheckpointError, match="has NaN or Inf"):
        inspect(file)
    save_file(weights | {name: weights[name].to(torch.int8)}, file)
    with pytest.raises(CheckpointError, match=f"weight {name} is of the type int8"):
        save_lora_student(place, taught("sd"), str(file))
    save_file({"conv_in.bias": torch.zeros(4)}, file)
    with pytest.raises(
        CheckpointError, match=r"'conv_in.bias' is not of a U-Net's LoRA: name a pytorch_lora_weights.safetensors"
    ):
        save_lora_student(place, taught("sd"), str(file))
    save_file(weights | {"text_encoder.layer.lora_A.weight": torch.zeros(64, 4)}, file)
    with pytest.raises(CheckpointError, match="is not of a U-Net's LoRA: one of the text encoder isn't supported"):
        save_lora_student(place, taught("sd"), str(file))
    save_file({f"base_model.model.{key.removeprefix('unet.')}": tensor for key, tensor in weights.items()}, file)
    with pytest.raises(CheckpointError, match="named as PEFT does, which keeps α elsewhere: save it by diffusers'"):
        save_lora_student(place, taught("sd"), str(file))
    file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no safetensors, or damaged"):
        save_lora_student(place, taught("sd"), str(file))
    with pytest.raises(CheckpointError, match="no such file"):
        save_lora_student(place, taught("sd"), str(tmp_path / "none.safetensors"))
    assert place.names() == before, "nothing half-written"


def test_a_lora_that_the_hub_does_not_give_is_one_line(taught: Callable[[str], Folder], monkeypatch: pytest.MonkeyPatch) -> None:
    def tried_in_vain(*_: Any) -> None:
        assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.ERROR), "its tries are not told"
        raise OSError("no way\nto it")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", tried_in_vain)
    with pytest.raises(CheckpointError, match=r"^latent/lcm-lora: no such file here, and .* doesn't give it \(no way to it\)$"):
        save_lora_student(taught("sd").parent, taught("sd"), "latent/lcm-lora")


def test_a_table_that_is_damaged_or_not_there_yet(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = teach(Folder.at(tmp_path), saved("sd"), PROMPTS)
    network, spec = network_of(folder), load_spec(folder)
    assert DenoiserSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    shard = Folder(network.prompts).local_path / "prompts-000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        PromptTable(Folder(network.prompts)).rows(torch.tensor([0]))
    with pytest.raises(CheckpointError, match="no encoded prompts are there"):
        PromptTable(Folder(network.pipeline))
