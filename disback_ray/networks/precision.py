"""In which precision a denoiser computes, and in which it keeps its weights."""

from typing import Literal

import torch
from torch import nn

from disback_ray.errors import ConfigError
from disback_ray.networks.preconditioning import Preconditioning

FrozenPrecision = Literal["fp32", "bf16"]
Precision = Literal["fp32", "bf16", "bf16_stochastic"]
"""bf16: the network computes in it, and what is trained stays in float32. bf16_stochastic: that is kept in bfloat16 as well."""


def set_precision(denoiser: nn.Module, precision: Precision) -> None:
    """Sets it for a denoiser, or a generator that is made of one.

    Preconditionings, and so D and the score (D - x) / σ², stay in float32; so do vectors (biases and normalisations are a thousandth
    of the weights) and buffers (frequencies, filters). Raises ConfigError for a network that is no denoiser.
    """
    if precision == "fp32":
        return
    found = [module for module in denoiser.modules() if isinstance(module, Preconditioning)]
    if not found:
        raise ConfigError(f"precision: {precision}: only denoisers can, and this network is none: fp32")
    for module in found:
        module.compute_dtype = torch.bfloat16
    for parameter in denoiser.parameters():
        kept = parameter.requires_grad and precision == "bf16"
        if parameter.ndim > 1 and parameter.is_floating_point() and not kept:
            parameter.data = parameter.data.bfloat16()
