"""Gradient checkpointing: a block keeps its input alone, and is computed again on the way back (Chen et al. 2016)."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from disback_ray.errors import ConfigError
from disback_ray.networks.consistency_unet import AttentionBlock, ResBlock
from disback_ray.networks.mlp import ResNetMLP
from disback_ray.networks.unet import UNetBlock

BLOCKS = (UNetBlock, ResBlock, AttentionBlock)


def checkpoint_gradients(network: nn.Module) -> None:
    """Lets the network's blocks do it: ours, and diffusers' own way for its models. Raises ConfigError where it has none of these."""
    found = False
    for module in list(network.modules()):
        blocks = list(module.blocks) if isinstance(module, ResNetMLP) else [module] if isinstance(module, BLOCKS) else []
        for block in blocks:
            block.__class__ = type(type(block).__name__, (_Checkpointed, type(block)), {})  # names of weights stay as they are
        own = getattr(module, "enable_gradient_checkpointing", None)
        if callable(own):
            own()
        found = found or bool(blocks) or callable(own)
    if not found:
        raise ConfigError("checkpointing: true: the network has no blocks that it is known for: leave it out")


class _Checkpointed:
    """Before a block's class: the same numbers, with the memory of its input. No block draws random numbers (`eval` mode)."""

    def forward(self, *inputs: Any) -> Any:
        forward = super().forward  # type: ignore[misc]  # the block's
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
