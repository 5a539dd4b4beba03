"""A denoiser on disk: denoiser.json beside model.safetensors, or with the names of the files that hold its weights elsewhere."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.networks.text_unet import LORA_MARK, TextUNetSpec
from disback_ray.storage import Folder

SETTINGS, WEIGHTS = "denoiser.json", "model.safetensors"
Module = TypeVar("Module", bound=nn.Module)
TRAINING = "teacher.json"
"""Beside them, of one that `teacher train` makes: what it is made of, and how far it is."""


def save_denoiser(folder: Folder, spec: DenoiserSpec, weights: Mapping[str, Tensor]) -> None:
    """The settings are written last: a folder that has them is whole. Raises CheckpointError."""
    proof = folder.write_tensors(WEIGHTS, weights)
    folder.write_json(SETTINGS, spec.to_json() | {"weights": proof})


def is_saved(folder: Folder) -> bool:
    return folder.has(SETTINGS)


def refuse_unfinished(folder: Folder, *, where: str | Path) -> None:
    """Raises CheckpointError where a folder's teacher has yet to be trained to its end."""
    if folder.has(TRAINING) and not is_saved(folder):
        raise CheckpointError(f"{where}: a teacher in training: finish it with the same `disback-ray teacher train` command")


def load_spec(folder: Folder) -> DenoiserSpec:
    """Which denoiser a folder holds. Raises CheckpointError where its settings are missing, damaged or no denoiser's."""
    settings = folder.read_json(SETTINGS)
    try:
        return DenoiserSpec.from_json(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.uri}/{SETTINGS}: {error}") from None


def proof_of(folder: Folder) -> str:
    """The SHA-256 of a denoiser's weights, or of those of its files. Raises CheckpointError."""
    try:
        proofs = folder.read_json(SETTINGS)["weights"]
        sha256: str = proofs["sha256"] if isinstance(proofs, dict) else _joint([proof["sha256"] for proof in proofs])
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder.uri}/{SETTINGS} has no SHA-256 of the weights") from None
    return sha256


def _joint(digests: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def save_reference(folder: Folder, spec: DenoiserSpec, weights: Sequence[Mapping[str, Any]]) -> None:
    """A denoiser whose weights lie in folders beside its own: {folder, file, sha256, prefix} of each file. Raises CheckpointError."""
    folder.write_json(SETTINGS, spec.to_json() | {"weights": list(weights)})


def load_denoiser(folder: Folder) -> nn.Module:
    """The denoiser of a folder, in `eval` mode. Raises CheckpointError where anything is missing, damaged or doesn't fit."""
    spec = load_spec(folder)
    return built(spec, spec.build, load_weights(folder), where=folder.uri)


def load_weights(folder: Folder) -> dict[str, Tensor]:
    """The weights of a denoiser's folder, by their names in it. Raises CheckpointError where anything is missing or damaged."""
    proofs = folder.read_json(SETTINGS).get("weights", {})
    if isinstance(proofs, dict):
        return folder.read_tensors(WEIGHTS, sha256=proofs.get("sha256"))
    tensors: dict[str, Tensor] = {}
    for proof in proofs:
        found = (folder.parent / proof["folder"]).read_tensors(proof["file"], sha256=proof["sha256"])
        tensors |= {f"{proof['prefix']}{name}": tensor for name, tensor in found.items()}
    return with_adapter({}, tensors)


def with_adapter(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both together, by the names that they have in a network with that adapter; without one, as they are."""
    tensors = {**base, **adapter}
    adapted = {name.split(LORA_MARK)[0] for name in tensors if LORA_MARK in name}
    return {_in_adapted(name, adapted): tensor for name, tensor in tensors.items()}


def _in_adapted(name: str, adapted: set[str]) -> str:
    """A layer that LoRA adapts has its own weights under `base_layer`."""
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.base_layer.{leaf}" if layer in adapted and LORA_MARK not in name else name


def built(
    spec: DenoiserSpec | GeneratorSpec, build: Callable[[], Module], weights: Mapping[str, Tensor], *, where: str
) -> Module:
    """What `build` makes with these weights. Of large networks no fresh weights are made first, and none are copied.

    Raises CheckpointError where they don't fit.
    """
    network = spec.network.network if isinstance(spec.network, DenoiserSpec) else spec.network
    if not isinstance(network, TextUNetSpec):
        module = build()
        load_strictly(module, weights, where=where)
        return module
    with torch.device("meta"):
        module = build()
    kinds = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    load_strictly(module, {name: tensor.to(kinds.get(name)) for name, tensor in weights.items()}, where=where, assign=True)
    return module


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str, assign: bool = False) -> None:
    """Loads weights whose names, shapes and number are the module's exactly. Raises CheckpointError otherwise.

    A loader that skips what it doesn't know changes nothing and says nothing: the target would never move. assign: take the tensors
    themselves, instead of their numbers.
    """
    try:
        module.load_state_dict(tensors, strict=True, assign=assign)
    except RuntimeError as error:
        first = str(error).replace("\t", " ").splitlines()[1:2] or [str(error)]
        raise CheckpointError(f"{where}: the weights don't fit the network: {first[0].strip()[:200]}") from None


def refuse_modules(spec: DenoiserSpec | GeneratorSpec, *, where: str, trust: bool) -> None:
    """Raises CheckpointError where building the network would run a module's code, and nobody has said that it is to be trusted.

    load_denoiser doesn't ask: who takes a folder from elsewhere does, before it.
    """
    if spec.module and not trust:
        raise CheckpointError(
            f"{where}: its network is the module {spec.module}, whose code loading it would run: "
            "say --trust-modules (trust_modules=True) if you trust it"
        )


class Restorable(Protocol):
    """A Learner or a MovingAverage."""

    def restore(self, tensors: dict[str, Tensor]) -> None: ...


def restore(*holders: Restorable, folder: Folder, name: str, sha256: str | None = None) -> None:
    """Gives each of them back what it saved in the file. Raises CheckpointError where that is missing, damaged or another's."""
    tensors = folder.read_tensors(name, sha256=sha256)
    try:
        for holder in holders:
            holder.restore(tensors)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder.uri}/{name} doesn't fit ({reason}): delete it to begin afresh") from None
