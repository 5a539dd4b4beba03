"""Gradient checkpointing: a block keeps its input alone, and is computed again on the way back (Chen et al. 2016).

Or each of its branches does, and only what is cheap is computed again: normalisations, activations and resampling before a convolution,
and attention (selective, after Korthikanti et al. 2022).
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from disback_ray.errors import ConfigError
from disback_ray.networks.consistency_unet import AttentionBlock, ResBlock
from disback_ray.networks.mlp import ResNetMLP
from disback_ray.networks.unet import UNetBlock

Checkpointing = Literal[False, True, "selective"]
BLOCKS = (UNetBlock, ResBlock, AttentionBlock)


def checkpoint_gradients(network: nn.Module, how: Literal[True, "selective"] = True) -> None:
    """Lets the network's blocks do it: ours; and diffusers' models do it whole, in their own way.

    Raises ConfigError where none of it can.
    """
    found = False
    for module in list(network.modules()):
        blocks: list[nn.Module] = [module] if isinstance(module, BLOCKS) else []
        if isinstance(module, ResNetMLP) and how is True:
            blocks = list(module.blocks)
        for block in blocks:  # names of weights stay as they are
            block.__class__ = type(type(block).__name__, (_Selective if how == "selective" else _Checkpointed, type(block)), {})
        own = getattr(module, "enable_gradient_checkpointing", None) if how is True else None
        if callable(own):
            own()
        found = found or bool(blocks) or callable(own)
    if not found:
        raise ConfigError(f"checkpointing: {str(how).lower()}: the network has no blocks that it is known for: leave it out")


def _again(layers: Any, *inputs: Any) -> Any:
    """layers(*inputs), of which the inputs alone are kept: computed again up to what the last layer needs, and not that one itself.

    No block draws random numbers (`eval` mode).
    """
    if not torch.is_grad_enabled():
        return layers(*inputs)
    return checkpoint(layers, *inputs, use_reentrant=False, preserve_rng_state=False)


class _Checkpointed:
    """Before a block's class: the same numbers, with the memory of its input."""

    def forward(self, *inputs: Any) -> Any:
        return _again(super().forward, *inputs)  # type: ignore[misc]  # the block's


class _Selective:
    """The same of each of a block's branches."""

    def branch(self, layers: Any, *inputs: Any) -> Any:
        return _again(layers, *inputs)
