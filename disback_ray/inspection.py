"""`disback-ray inspect`: what a file or a folder holds, in a few lines, or why it is refused."""

import re
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from torch import nn

from disback_ray.algorithms.vp_schedule import VPSchedule
from disback_ray.errors import CheckpointError
from disback_ray.exports.files import FACTS as EXPORT
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import DDPMppSpec, DenoiserSpec, MLPSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.run_folder import SUMMARY, is_run, read_summary
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import Expected, format_of, read_file, read_teacher, read_teacher_folder
from disback_ray.teachers.drawing import limits
from disback_ray.teachers.foreign_weights import precision_of
from disback_ray.teachers.hub import diffusers_folder, is_diffusers
from disback_ray.teachers.lora import FILE as LORA
from disback_ray.teachers.lora import check_weights
from disback_ray.teachers.path_nodes import load_node, nodes_of, said_of
from disback_ray.teachers.pipeline import NAMES, is_pipeline
from disback_ray.teachers.saved import SETTINGS as DENOISER
from disback_ray.teachers.saved import load_denoiser, load_spec, refuse_modules, refuse_unfinished
from disback_ray.teachers.saved_generator import SETTINGS as GENERATOR
from disback_ray.teachers.saved_generator import load_generator
from disback_ray.teachers.text_teacher import read_text_teacher

Facts = dict[str, str]

U_NETS = {"ddpmpp": "DDPM++", "ncsnpp": "NCSN++", "adm": "ADM"}
PRECONDITIONINGS = {"EDMPrecond": "EDM", "VPPrecond": "VP", "VEPrecond": "VE"}
PREDICTIONS = {"x0": "x_0", "sample": "x_0", "epsilon": "ε", "v": "v", "v_prediction": "v"}
PRECISIONS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight")
"""How diffusers and kohya name the half of a LoRA's layer whose rows are its rank."""
SCALINGS = {"boundary": "consistency model", "standard": "diffusion model of openai's consistency models"}


def inspect(where: str | Path, *, trust_modules: bool = False) -> Facts:
    """What a teacher's file or folder, one on the Hugging Face Hub, a generator's folder or a run's holds: names and values, in order.

    All weights are read, so that what is told is what would load. trust_modules: it may be a module of the user's own, whose code is
    then run. Raises CheckpointError where loading is refused.
    """
    folder, name = Folder.of_file(where)
    if folder.size(name) is not None:
        if (node := re.fullmatch(r"node-(\d+)\.(safetensors|json)", name)) and folder.has(f"node-{node[1]}.json"):
            return _node(folder, int(node[1]))
        return _lora(str(where)) if name.endswith(".safetensors") else _file(str(where))
    folder = Folder.at(where)
    if folder.has(LORA):
        return _lora(f"{folder.uri}/{LORA}")
    if folder.has(DENOISER):
        spec = load_spec(folder)
        refuse_modules(spec, where=folder.uri, trust=trust_modules)
        return {"kind": "teacher's folder: teacher.format: denoiser", **_denoiser(spec, load_denoiser(folder))}
    if folder.has(GENERATOR):
        return {"kind": "generator's folder", **_generator(folder, trust_modules)}
    if is_run(folder):
        return _run(folder, trust_modules)
    if is_diffusers(str(where)):
        return _diffusers(str(where))
    if folder.has(EXPORT):
        return _export(folder)
    refuse_unfinished(folder, where=where)
    if not folder.names():
        raise CheckpointError(f"{where}: nothing is there")
    raise CheckpointError(f"{where}: neither a teacher's folder ({DENOISER}), nor a generator's ({GENERATOR}), nor a run's")


def _file(name: str) -> Facts:
    data = read_file(name)
    format = format_of(data, name=name)
    found = read_teacher(data, name=name, format=format, expected=Expected())
    facts = {"kind": f"{'EDM pickle' if format == 'edm' else 'consistency file'}: teacher.format: {format}"}
    facts |= _denoiser(found.spec, found.denoiser)
    facts["precision"] = (
        f"{found.precision} in the file{', float16 when its owners run it' if found.float16 else ''}; float32 here"
    )
    if format == "consistency":
        side = found.spec.shape[-1]
        facts["images"] += (
            f" (not in the file: as its attention is at 32, 16 and 8 pixels in openai's; else teacher.expects.resolution: {side})"
        )
        facts["network"] += ", or a diffusion model's: the file doesn't tell (teacher.scalings, sample --scalings)"
    return facts


def _lora(name: str) -> Facts:
    """A LoRA for a Stable Diffusion, by the names of its weights: which base it is for, only that base can tell."""
    folder, file = Folder.of_file(name)
    tensors = folder.read_tensors(file)
    check_weights(tensors, where=name)
    downs = [tensor for key, tensor in tensors.items() if key.endswith(DOWN) and tensor.ndim > 1]
    if not downs:
        raise CheckpointError(f"{name}: safetensors with no weights of a LoRA: name the folder that diffusers saved them in")
    return {
        "kind": "LoRA: student.lora",
        "network": f"adapters on {len(downs)} layers, rank {' and '.join(map(str, sorted({len(down) for down in downs})))}",
        "parameters": _number(sum(tensor.numel() for tensor in tensors.values())),
        "precision": f"{precision_of(tensors.values())} in the file; float32 here",
    }


def _node(path: Folder, node: int) -> Facts:
    """A node of a path, by its file or its JSON."""
    said = said_of(path, node)
    numbers = sum(tensor.numel() for tensor in load_node(path, node, adapter=said.get("adapter")).values())
    return {
        "kind": f"node {node} of a path, after {said.get('step')} recording steps",
        "weights": "LoRA's adapter on the teacher" if said.get("adapter") else "a whole network",
        "stored": f"{_stored(said)}: {_number(numbers)} numbers, {decimal(_size(path, node))}",
    }


def _stored(said: dict[str, Any]) -> str:
    storage = said.get("storage", {})
    return f"{storage.get('kind', 'as they are')}{f', rank {rank}' if (rank := storage.get('rank')) else ''}"


def _path(path: Folder) -> Facts:
    """How many nodes a run has recorded, and how they are stored."""
    nodes = nodes_of(path)
    kinds = {_stored(said_of(path, node)) for node in nodes}
    size = decimal(sum(_size(path, node) for node in nodes))
    return {"path": f"{len(nodes)} nodes, stored {' and '.join(sorted(kinds))}: {size}"} if nodes else {}


def _size(path: Folder, node: int) -> int:
    return path.size(f"node-{node}.safetensors") or 0


def _diffusers(name: str) -> Facts:
    with diffusers_folder(name) as path:
        if is_pipeline(path):
            return _pipeline(path, name)
        found = read_teacher_folder(path, name=name, expected=Expected())
    facts = {"kind": "diffusers' folder: teacher.format: diffusers", **_denoiser(found.spec, found.denoiser)}
    return facts | {"precision": f"{found.precision} in the file; float32 here"}


def _pipeline(path: Path, name: str) -> Facts:
    spec, denoiser, pipeline = read_text_teacher(path, name=name)
    facts = {"kind": f"diffusers' pipeline of {NAMES[pipeline.family]}: teacher.format: stable-diffusion"}
    facts |= _denoiser(spec, denoiser)
    return facts | {"precision": f"{PRECISIONS.get(pipeline.precision, pipeline.precision)} in the U-Net's file; float32 here"}


def _text(shape: tuple[int, ...], *, pixels: int, encoded: int = 0) -> Facts:
    """What is different where samples are latents and conditions are prompts."""
    size = " × ".join(map(str, shape))
    count = f", {encoded} encoded" if encoded else ""
    return {
        "images": f"3 × {pixels} × {pixels}, in [-1, 1], of latents {size} (channels, height, width)",
        "conditioning": f"prompts{count}",
    }


def _denoiser(spec: DenoiserSpec, denoiser: nn.Module) -> Facts:
    network = spec.network
    if isinstance(network, TextUNetSpec):
        lora = f", with a LoRA of rank {network.lora['r']}" if network.lora else ""
        what = f"diffusers' UNet2DConditionModel{lora}, predicts {PREDICTIONS[network.prediction]}, {_times(network.schedule)}"
        rest = {"parameters": _count(denoiser), "precision": "float32", "σ": _sigmas(spec, denoiser)}
        return {"network": what, **_text(spec.shape, pixels=network.pixels, encoded=spec.classes), **rest}
    if isinstance(network, EDMSpec):
        what = f"{U_NETS[network.network]}, {PRECONDITIONINGS[network.precond]} preconditioning"
    elif isinstance(network, ConsistencySpec):
        what = f"openai's ADM, {SCALINGS[network.scalings]}"
    elif isinstance(network, ModuleSpec):
        what = f"the module {network.module}, which gives {PREDICTIONS[network.prediction]}"
    elif isinstance(network, DDPMSpec):
        what = f"diffusers' UNet2DModel, predicts {PREDICTIONS[network.prediction]}, {_times(network.schedule)}"
    else:
        what = f"{'DDPM++' if isinstance(network, DDPMppSpec) else 'residual MLP'}, EDM preconditioning"
    return {
        "network": what,
        **_samples(spec.shape, spec.classes),
        "parameters": _count(denoiser),
        "precision": "float32",
        "σ": _sigmas(spec, denoiser),
    }


def _times(schedule: VPSchedule) -> str:
    betas = "β of a table" if schedule.betas else f"{schedule.kind.replace('_', ' ')} β"
    return f"{schedule.steps} times, {betas}"


def _sigmas(spec: DenoiserSpec, denoiser: nn.Module) -> str:
    if isinstance(spec.network, DDPMSpec | TextUNetSpec):
        return f"{spec.network.schedule.sigma_min:.3g} … {spec.network.schedule.sigma_max:.4g}, of its times"
    low, high = limits(denoiser)
    return f"{low:.3g} … {high:.3g} when sampled; σ_data {spec.sigma_data:g}"


def _generator(folder: Folder, trust_modules: bool) -> Facts:
    spec, network = load_generator(folder, trust_modules=trust_modules)
    if isinstance(spec.network, MLPSpec):
        return {
            "network": "MLP, one step",
            **_samples(spec.shape, spec.classes),
            "parameters": _count(network),
            "precision": "float32",
        }
    facts = _denoiser(spec.network, network.denoiser)  # type: ignore[arg-type]
    return facts | {"σ": f"one step from σ = {network.sigma_init:.4g}"}


def _run(folder: Folder, trust_modules: bool) -> Facts:
    summary = read_summary(folder) if folder.has(SUMMARY) else {}
    facts = {"kind": f"run of {summary.get('recipe', 'an unknown recipe')}, {summary.get('status', 'not begun')}"}
    if (folder / "generator").has(GENERATOR):
        return facts | _generator(folder / "generator", trust_modules) | _path(folder / "path")
    return facts | {"generator": "none yet: finish the run with the same `disback-ray run` command"}


def _export(folder: Folder) -> Facts:
    """What `export --to safetensors` and `--to state-dict` leave, for other tools: as they say, their weights unread."""
    try:
        said = folder.read_json(EXPORT)
        library, network = said["network"]["library"], said["network"]["class"]
        facts = {"kind": f"export of a run of {said['recipe']}, for other tools", "network": f"{network} of {library}"}
        shape = tuple(said["shape"])
        what = _text(shape, pixels=said["pixels"]) if "pixels" in said else _samples(shape, said["classes"])
        return facts | what | {"use": said["one_step"]}
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder.uri}/{EXPORT}: not what `disback-ray export` writes") from None


def _samples(shape: tuple[int, ...], classes: int) -> Facts:
    size = " × ".join(map(str, shape))
    what = (
        {"images": f"{size} (channels, height, width), in [-1, 1]"} if len(shape) == 3 else {"points": f"of {size} coordinates"}
    )
    return what | {"conditioning": f"{classes} classes" if classes else "none"}


def _count(module: nn.Module) -> str:
    return _number(sum(parameter.numel() for parameter in module.parameters()))


def _number(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"
