"""A text-to-image teacher, and the student that starts from it: a pipeline's U-Net with a table of encoded prompts, and perhaps a LoRA."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from disback_ray.data.prompts import PromptsData, read_prompts
from disback_ray.errors import CheckpointError
from disback_ray.networks.predictions import own_sigma_data
from disback_ray.networks.prompt_table import INDEX
from disback_ray.networks.spec import Count, DenoiserSpec
from disback_ray.networks.text_unet import UNET, TextUNetSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.hub import diffusers_folder
from disback_ray.teachers.lora import read_lora
from disback_ray.teachers.pipeline import Family, Pipeline, import_pipeline, open_pipeline, unet_files
from disback_ray.teachers.prompt_encoding import check_lengths, put_texts, table_folder
from disback_ray.teachers.saved import built, is_saved, load_spec, save_reference

ADAPTER = "lora.safetensors"


@dataclass(frozen=True)
class ExpectedPipeline:
    """What a recipe's pipeline has to be; None: anything. pixels: an image's side."""

    family: Family | None = None
    pixels: Count | None = None


def import_text_teacher(cache: Folder, checkpoint: str, data: PromptsData, expected: ExpectedPipeline) -> Folder:
    """The folder of a pipeline's denoiser with a recipe's prompts, which may still be to be encoded (see is_encoded).

    Raises CheckpointError where the pipeline is missing, damaged, refused or not what is expected, ConfigError where a prompt or the
    prompts' file is wrong; then nothing is written.
    """
    prompts = read_prompts(data)
    with diffusers_folder(checkpoint) as path:
        pipeline = open_pipeline(path, name=checkpoint)
        check_pipeline(pipeline, expected)
        check_lengths(prompts, path, pipeline.family)
        imported = import_pipeline(cache, pipeline)
        table = table_folder(cache, imported, prompts.texts, embeddings=data.embeddings)
        put_texts(table, prompts)
        return save_text_teacher(cache, pipeline, imported, table, prompts=len(prompts))


def text_network(folder: Folder) -> TextUNetSpec | None:
    """What a denoiser's folder says of a pipeline's U-Net; None: it holds another network, or is still to be made."""
    network = load_spec(folder).network if is_saved(folder) else None
    return network if isinstance(network, TextUNetSpec) else None


def is_encoded(network: TextUNetSpec) -> bool:
    """Whether the prompts that the network is told have been encoded."""
    return Folder(network.prompts).has(INDEX)


def check_pipeline(pipeline: Pipeline, expected: ExpectedPipeline) -> None:
    """Raises CheckpointError where it is not what the recipe expects."""
    for key, found in {"family": pipeline.family, "pixels": pipeline.pixels}.items():
        wanted = getattr(expected, key)
        if wanted is not None and found != wanted:
            raise CheckpointError(
                f"{pipeline.where}: its {key} is {found}, and the recipe is for {wanted} (teacher.expects.{key})"
            )


def save_text_teacher(cache: Folder, pipeline: Pipeline, imported: Folder, table: Folder, *, prompts: int) -> Folder:
    """The folder of the denoiser that hears the prompts of a table, which may still be to be encoded. prompts: how many.

    Raises CheckpointError.
    """
    folder = cache / f"{imported.name}-{table.name}"
    spec = _spec(pipeline, imported, table=table.uri, prompts=prompts)
    if not is_saved(folder) or load_spec(folder) != spec:  # the storage may have moved since
        save_reference(folder, spec, _unet_weights(imported))
    return folder


def read_text_teacher(path: Path, *, name: str) -> tuple[DenoiserSpec, nn.Module, Pipeline]:
    """The denoiser of a pipeline's folder, which has been told no prompts yet. name: what errors call it.

    Raises CheckpointError where it is not whole, refused, or not supported.
    """
    pipeline = open_pipeline(path, name=name)
    spec = _spec(pipeline, Folder.at(path), table="", prompts=0)
    files = [file for file in pipeline.files if file.startswith("unet/") and file.endswith(".safetensors")]
    weights = {f"{UNET}{key}": tensor for file in files for key, tensor in Folder.at(path).read_tensors(file).items()}
    return spec, built(spec, spec.build, weights, where=name), pipeline


def _spec(pipeline: Pipeline, folder: Folder, *, table: str, prompts: int) -> DenoiserSpec:
    network = TextUNetSpec(
        config=_plain(pipeline.unet), schedule=pipeline.schedule, prediction=pipeline.prediction, ddim=pipeline.ddim,
        pixels=pipeline.pixels, pipeline=folder.uri, prompts=table,
    )  # fmt: skip
    return DenoiserSpec(network, pipeline.latents, prompts, own_sigma_data(pipeline.prediction))


def save_lora_student(cache: Folder, teacher: Folder, lora: str) -> Folder:
    """The folder of the teacher's network with a LoRA on it, the only part to be trained. lora: a file, a folder or a Hub id.

    Raises CheckpointError where it is missing, damaged or for another base.
    """
    spec = load_spec(teacher)
    assert isinstance(spec.network, TextUNetSpec)
    settings, weights = read_lora(lora, spec.network.config)
    name = hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {digest(weights)}".encode()).hexdigest()[:16]
    adapter = cache / f"lora-{name}"
    proof = adapter.write_tensors(ADAPTER, weights)
    folder = cache / f"{teacher.name}-{adapter.name}"
    own = {"folder": adapter.name, "file": ADAPTER, "sha256": proof["sha256"], "prefix": ""}
    imported = Folder(spec.network.pipeline)
    save_reference(folder, replace(spec, network=replace(spec.network, lora=settings)), [*_unet_weights(imported), own])
    return folder


def _unet_weights(imported: Folder) -> list[dict[str, Any]]:
    return [{"folder": imported.name, **file, "prefix": UNET} for file in unet_files(imported)]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of a configuration."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
