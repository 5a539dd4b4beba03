"""A denoiser on disk: model.safetensors beside denoiser.json."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec
from disback_ray.storage import Folder

SETTINGS, WEIGHTS = "denoiser.json", "model.safetensors"


def save_denoiser(folder: Folder, spec: DenoiserSpec, weights: Mapping[str, Tensor]) -> None:
    """The settings are written last: a folder that has them is whole. Raises CheckpointError."""
    proof = folder.write_tensors(WEIGHTS, weights)
    folder.write_json(SETTINGS, spec.to_json() | {"weights": proof})


def is_saved(folder: Folder) -> bool:
    return folder.has(SETTINGS)


def load_spec(folder: Folder) -> DenoiserSpec:
    """Which denoiser a folder holds. Raises CheckpointError where its settings are missing, damaged or no denoiser's."""
    return DenoiserSpec.from_json(folder.read_json(SETTINGS))


def proof_of(folder: Folder) -> str:
    """The SHA-256 of a denoiser's weights. Raises CheckpointError."""
    try:
        sha256: str = folder.read_json(SETTINGS)["weights"]["sha256"]
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder.uri}/{SETTINGS} has no SHA-256 of the weights") from None
    return sha256


def load_denoiser(folder: Folder) -> nn.Module:
    """The denoiser of a folder, in `eval` mode. Raises CheckpointError where anything is missing, damaged or doesn't fit."""
    settings = folder.read_json(SETTINGS)
    denoiser = DenoiserSpec.from_json(settings).build()
    tensors = folder.read_tensors(WEIGHTS, sha256=settings.get("weights", {}).get("sha256"))
    load_strictly(denoiser, tensors, where=folder.uri)
    return denoiser


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Loads weights whose names, shapes and number are the module's exactly. Raises CheckpointError otherwise.

    A loader that skips what it doesn't know changes nothing and says nothing: the target would never move.
    """
    try:
        module.load_state_dict(tensors, strict=True)
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
