"""Other people's weights into our networks, strictly."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.networks.preconditioning import Preconditioning

Denoiser = TypeVar("Denoiser", bound=Preconditioning)

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""The types that weights may have in a file; torch counts others to the floating-point ones that it can't compute with."""


def denoiser_with(build: Callable[[], Denoiser], weights: Mapping[str, Tensor]) -> Denoiser:
    """The denoiser that `build` makes, holding `weights` as float32, in `eval` mode.

    It is built without storage and nothing is drawn, so that a file's claims about its size cost no memory.
    Raises CheckpointError where a name or a shape is not the network's, or a weight is no number.
    """
    try:
        with torch.device("meta"):
            denoiser = build()
    except RuntimeError:  # torch counts bytes without making any, and here to more than 2^63: an empty weight may be that wide
        raise CheckpointError("its network would be larger than any memory: the widths in the file are wrong") from None
    expected = {name: tuple(tensor.shape) for name, tensor in denoiser.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"weights missing: {len(missing)}, the first is {missing[0]}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"weights that the network doesn't have: {len(unknown)}, the first is {unknown[0]!r:.120}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(f"weight {name}: its shape is {found[name]}, the network's is {shape}")
    if broken := next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None):
        raise CheckpointError(f"weight {broken} has NaN or Inf")
    denoiser.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True, assign=True)
    return denoiser.eval()


def precision_of(weights: Iterable[Tensor]) -> str:
    """The types of the weights in a file, such as 'float16, float32'."""
    return ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights}))
