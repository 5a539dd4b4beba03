"""EDM's checkpoints (Karras et al. 2022): pickles whose stock loader executes the source code inside; this one doesn't."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.edm import IGNORED, build_edm
from disback_ray.networks.preconditioning import Preconditioning
from disback_ray.teachers.edm_symbols import Module, constructors
from disback_ray.teachers.foreign_weights import denoiser_with, precision_of
from disback_ray.teachers.inert_pickle import read_pickle

MAX_BYTES = 8 << 30  # the largest published one has 1.2 GB
MAX_DEPTH, MAX_ENTRIES = 16, 100_000  # of the module tree: ADM at 64 pixels has 5 levels and about 2,000 entries


@dataclass(frozen=True)
class EDMCheckpoint:
    """What an EDM pickle holds: the averaged network (`ema`) as our denoiser, and what it was made for."""

    denoiser: Preconditioning  # float32, in eval mode
    kind: str  # EDM's class: EDMPrecond, VPPrecond or VEPrecond
    arguments: Mapping[str, Any]  # build_edm(kind, arguments) makes the same network, with fresh weights; fit for JSON
    resolution: int
    channels: int
    label_dim: int  # 0: unconditional
    augment_dim: int
    use_fp16: bool  # trained, and run by its owners, in float16
    precision: str  # of the weights in the file, such as 'float32'
    sigma_min: float
    sigma_max: float


def read_edm_pickle(source: bytes | BinaryIO, *, name: str = "EDM pickle") -> EDMCheckpoint:
    """The `ema` network of an EDM pickle; `name` is what errors call it. No code in the file is executed.

    Raises CheckpointError, in one line, where the file is cut off, damaged, asks for a symbol that EDM's networks don't
    need (it is named), or holds another network.
    """
    try:
        data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CheckpointError(f"larger than {MAX_BYTES} bytes, which no EDM checkpoint is")
        return _checkpoint(read_pickle(data, constructors(budget=len(data))))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None


def _checkpoint(content: Any) -> EDMCheckpoint:
    network = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(network, Module):
        raise CheckpointError("no network under 'ema': not an EDM checkpoint")
    arguments = network.children("_init_kwargs")
    if network.state.get("_init_args", ()) != ():
        raise CheckpointError("its network's constructor arguments are missing")
    use_fp16 = arguments.get("use_fp16", False) is True
    arguments = {key: value for key, value in arguments.items() if key not in IGNORED}
    weights = dict(_weights(network))
    denoiser = denoiser_with(lambda: build_edm(network.class_name, arguments), weights)
    return EDMCheckpoint(
        denoiser=denoiser,
        kind=network.class_name,
        arguments=arguments,
        resolution=arguments["img_resolution"],
        channels=arguments["img_channels"],
        label_dim=denoiser.label_dim,
        augment_dim=arguments.get("augment_dim", 0),
        use_fp16=use_fp16,
        precision=precision_of(weights.values()),
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
    )


def _weights(network: Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer with its dotted name, as a state dict has them."""
    pending: list[tuple[str, Module, int]] = [("", network, 0)]
    entries = 0
    while pending:
        prefix, module, depth = pending.pop()
        tensors = module.children("_parameters"), module.children("_buffers")
        children = module.children("_modules")
        # A file can make a module its own descendant, or share one so often that walking never ends.
        entries += 1 + sum(map(len, (*tensors, children)))
        if depth > MAX_DEPTH or entries > MAX_ENTRIES:
            raise CheckpointError("its modules are nested too deep, or without end")
        for key, tensor in [*tensors[0].items(), *tensors[1].items()]:
            if isinstance(tensor, Tensor):
                yield prefix + key, tensor
            elif tensor is not None:
                raise CheckpointError(f"{prefix + key!r:.120} is not a tensor")
        for key, child in children.items():
            if isinstance(child, Module):
                pending.append((f"{prefix}{key}.", child, depth + 1))
            elif child is not None:
                raise CheckpointError(f"{prefix + key!r:.120} is not a module")
