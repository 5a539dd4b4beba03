"""A generator on disk: generator.json beside its averaged and its raw weights; of an adapter these alone, with its base's SHA-256."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.networks.text_unet import UNET, TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.pipeline import unet_files
from disback_ray.teachers.saved import WEIGHTS, built, refuse_modules, with_adapter

SETTINGS, RAW_WEIGHTS = "generator.json", "raw.safetensors"
DENOISER = "denoiser."
"""What a denoiser's weights' names begin with in a one-step generator."""


def save_generator(folder: Folder, spec: GeneratorSpec, *, averaged: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> None:
    """Writes what load_generator reads; the settings are last. averaged, raw: the trained weights. Raises CheckpointError."""
    proof = folder.write_tensors(WEIGHTS, averaged)
    folder.write_tensors(RAW_WEIGHTS, raw)
    folder.write_json(SETTINGS, spec.to_json() | {"weights": proof} | base_of(spec))


def load_generator(folder: Folder, *, trust_modules: bool) -> tuple[GeneratorSpec, nn.Module]:
    """G(z, class ids) with the averaged weights, in `eval` mode, and its settings.

    Raises CheckpointError where it is missing, damaged, on another base, or a module that isn't trusted.
    """
    settings = folder.read_json(SETTINGS)
    spec = spec_of(settings, folder)
    refuse_modules(spec, where=folder.uri, trust=trust_modules)
    weights = folder.read_tensors(WEIGHTS, sha256=settings.get("weights", {}).get("sha256"))
    network = adapted(spec)
    if network is not None and "base" in settings:
        weights = with_adapter(_base(folder, Folder(network.pipeline), settings["base"]), weights)
    return spec, built(spec, spec.build, weights, where=folder.uri)


def spec_of(settings: dict[str, Any], folder: Folder) -> GeneratorSpec:
    """What a generator's settings say that it is. folder: where they lie, for errors. Raises CheckpointError."""
    try:
        return GeneratorSpec.from_json(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.uri}/{SETTINGS}: {error}") from None


def base_of(spec: GeneratorSpec) -> dict[str, Any]:
    """{base: name and SHA-256 of each of its files} where an adapter is all that is trained, and kept; else nothing."""
    network = adapted(spec)
    return {} if network is None else {"base": unet_files(Folder(network.pipeline))}


def adapted(spec: GeneratorSpec) -> TextUNetSpec | None:
    """The network that an adapter is on, where that is all that is trained of the generator."""
    network = spec.network.network if isinstance(spec.network, DenoiserSpec) else None
    return network if isinstance(network, TextUNetSpec) and network.lora is not None else None


def _base(folder: Folder, pipeline: Folder, files: list[dict[str, Any]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            found = pipeline.read_tensors(file["file"], sha256=file["sha256"])
        except CheckpointError as error:
            raise CheckpointError(
                f"{folder.uri}: an adapter, and its base is not there: {pipeline.uri}/{file['file']} with the SHA-256 "
                f"{file['sha256'][:12]}… ({error})"
            ) from None
        tensors |= {f"{DENOISER}{UNET}{name}": tensor for name, tensor in found.items()}
    return tensors
