"""Anybody's module as a teacher: built once, tried out, and kept as a denoiser's folder, so that every role loads it as any other."""

import hashlib
import json

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.module import ModuleDenoiser, try_out
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.saved import is_saved, load_strictly, save_denoiser


def keep_module(cache: Folder, spec: DenoiserSpec, *, weights: str | None) -> Folder:
    """The teacher's folder in the cache, named by its settings and weights. weights: a safetensors file of the module's own names.

    Without one, the weights are those that the factory gives. Raises ConfigError where the module can't be used, CheckpointError
    where the weights are missing, damaged or don't fit it; then nothing is written.
    """
    denoiser = spec.build()
    assert isinstance(denoiser, ModuleDenoiser)
    assert spec.module
    if weights is not None:
        load_strictly(denoiser.model, _read(weights), where=weights)
    try_out(denoiser, spec.module, spec.shape)
    state = denoiser.state_dict()
    if not all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point()):
        raise CheckpointError(f"{weights or spec.module}: its weights have NaN or Inf")
    key = json.dumps(spec.to_json(), sort_keys=True) + digest(state)
    folder = cache / f"own-{hashlib.sha256(key.encode()).hexdigest()}"
    if not is_saved(folder):
        save_denoiser(folder, spec, state)
    return folder


def _read(file: str) -> dict[str, Tensor]:
    folder, name = Folder.of_file(file)
    if folder.size(name) is None:
        raise CheckpointError(f"{file}: no such file")
    try:
        return safetensors.torch.load(folder.read(name))
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not safetensors, or damaged: {str(error).splitlines()[0]}") from None
