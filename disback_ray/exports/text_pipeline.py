"""`--to diffusers` of a Stable Diffusion student: the pipeline it came from, with its U-Net and LCM's scheduler, which has one step."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.exports.card import write_card
from disback_ray.exports.student import Student
from disback_ray.hugging_face import diffusers
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import LORA_MARK, TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.hub import INDEX
from disback_ray.teachers.pipeline import FACTS, HALF, WEIGHTS

USE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".")  # this folder
one_step = {{"timesteps": [{time}], "num_inference_steps": 1, "guidance_scale": 0.0}}
images = pipeline(["a prompt"] * 4, latents=latents(0, 4), **one_step).images  # latents: below; without them, diffusers' own noise
```

`disback-ray sample RUN --seed 0 --n 4 --prompt "a prompt"` draws the same four. Give all three arguments of `one_step`: the generator was
trained for this time and without guidance."""


def write_text_pipeline(student: Student, folder: Path) -> None:
    """Raises CheckpointError where the pipeline that the run imported is gone."""
    network = text_spec(student)
    imported = Folder(network.pipeline)
    if not imported.has(FACTS):
        raise CheckpointError(
            f"{imported.uri}: the pipeline that the run imported is gone: run its recipe again, elsewhere with --out"
        )
    index = imported.read_json(INDEX)
    with imported.here() as path:
        for name in (file["file"] for file in imported.read_json(FACTS)["files"]):
            if not name.startswith(("unet/", "scheduler/")) and name != INDEX:
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path / name, folder / without_variant(name))
        settings = json.loads((path / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    diffusers().LCMScheduler.from_config(settings).save_pretrained(folder / "scheduler")
    unet = diffusers().UNet2DConditionModel.from_config(network.config)
    unet.load_state_dict(whole_weights(student), strict=True)
    unet.save_pretrained(folder / "unet")
    (folder / INDEX).write_text(json.dumps(_index(index, folder), indent=2) + "\n", "utf-8")
    sigma = torch.tensor(float(student.network.sigma_init), dtype=torch.float64)  # type: ignore[arg-type]
    write_card(student, folder, USE.format(time=int(network.schedule.time(sigma))))


def without_variant(name: str) -> str:
    """The name under which a part's weights are found by who asks for no variant. Shards keep theirs, which the index has."""
    part, _, file = name.rpartition("/")
    stem = WEIGHTS.get(part)
    plain = {f"{stem}.{HALF}.safetensors": f"{stem}.safetensors"}
    plain |= {f"{stem}.safetensors.index.{HALF}.json": f"{stem}.safetensors.index.json"}
    return f"{part}/{plain.get(file, file)}" if part else name


def text_spec(student: Student) -> TextUNetSpec:
    assert isinstance(student.spec.network, DenoiserSpec)
    network = student.spec.network.network
    assert isinstance(network, TextUNetSpec)
    return network


def lora_weights(student: Student) -> dict[str, Tensor]:
    """Those of a LoRA by the names that diffusers publishes. α / rank is in B: of a file without α every layer's factor is 1."""
    unet, made = _unet(student), {}
    for name, tensor in unet.state_dict().items():
        layer, mark, half = name.partition(LORA_MARK)
        if mark:
            scaling: dict[str, float] = unet.get_submodule(layer).scaling  # type: ignore[assignment]  # PEFT's
            made[f"unet.{name.replace('.default.', '.')}"] = (
                tensor * scaling["default"] if half[0] == "B" else tensor
            ).contiguous()
    return made


def whole_weights(student: Student) -> dict[str, Tensor]:
    """The U-Net's, a LoRA added to the weights that it adapts."""
    unet = _unet(student)
    for module in unet.modules():
        if hasattr(module, "base_layer") and not module.merged:
            module.merge()  # type: ignore[operator]  # PEFT's
    weights = {name: tensor for name, tensor in unet.state_dict().items() if LORA_MARK not in name}
    return {name.replace(".base_layer.", "."): tensor.contiguous() for name, tensor in weights.items()}


def _unet(student: Student) -> nn.Module:
    unet: nn.Module = student.network.denoiser.model.unet  # type: ignore[assignment, union-attr]
    return unet


def _index(index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The pipeline's parts, without those that were not imported, such as the safety checker."""
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    there = {name: value if (folder / name).is_dir() else [None, None] for name, value in parts.items()}
    only_sd = {"requires_safety_checker": False} if "safety_checker" in index else {}
    return index | there | {"scheduler": ["diffusers", "LCMScheduler"]} | only_sd
