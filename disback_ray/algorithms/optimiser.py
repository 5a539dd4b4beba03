"""An optimiser as settings."""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import nn

from disback_ray.algorithms.eager import leave_the_compiler_out
from disback_ray.algorithms.noise import Positive
from disback_ray.errors import ConfigError

AT_ONCE = 8_000_000
"""So many numbers, or one tensor where that has more: on a GPU torch updates the tensors of a group together, and holds a second copy of
them while it does. Of a whole network that would be as much as its weights."""


@dataclass(frozen=True)
class OptimiserSettings:
    """clip: the gradient's largest norm, None for any; decay_after: from this share of the steps on the rate falls to 0 (cosine).

    warmup: over so many first updates the rate rises linearly. states: Adam's two moments in float32, or each in 8 bits with a scale
    for every 256 (Dettmers et al. 2022, bitsandbytes). offload: the moments are in host memory, and the update is made there.
    """

    lr: Positive
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    weight_decay: Annotated[float, Ge(0), Lt(math.inf)] = 0.0
    clip: Positive | None = None
    decay_after: Annotated[float, Ge(0), Le(1)] = 1.0
    warmup: Annotated[int, Ge(0)] = 0
    states: Literal["fp32", "8bit"] = "fp32"
    offload: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where settings contradict one another."""
        if self.kind == "sgd" and (self.states != "fp32" or self.offload):
            raise ValueError("states and offload are for Adam's moments, and sgd has none: leave them out")
        if self.states == "8bit" and self.offload:
            raise ValueError("states: 8bit and offload: true: choose one; 8-bit moments are small enough for the device")
        if self.states == "8bit" and self.kind == "adam" and self.weight_decay:
            raise ValueError(f"weight_decay: {self.weight_decay}: 8-bit Adam only has AdamW's: choose kind: adamw")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Raises ConfigError where 8-bit Adam is not installed."""
        leave_the_compiler_out()
        if self.kind == "sgd":
            return torch.optim.SGD(_groups(parameters), lr=self.lr, weight_decay=self.weight_decay)
        common: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "weight_decay": self.weight_decay}
        if self.states == "8bit":
            eight: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(parameters, **common)
            return eight
        return (torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW)(_groups(parameters), **common)

    def rate(self, progress: float, *, update: int) -> float:
        """The learning rate of the update-th update, once this share of the steps is done, 0 … 1."""
        late = max(progress - self.decay_after, 0) / max(1 - self.decay_after, 1e-12)
        warm = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        return warm * self.lr * 0.5 * (1 + math.cos(math.pi * late))


def _groups(parameters: Iterable[nn.Parameter]) -> Iterator[dict[str, Any]]:
    """torch.optim's groups, in order, each of AT_ONCE numbers at most."""
    group: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        if group and held + parameter.numel() > AT_ONCE:
            yield {"params": group}
            group, held = [], 0
        group.append(parameter)
        held += parameter.numel()
    yield {"params": group}


def _bitsandbytes() -> Any:
    """Raises ConfigError."""
    quiet = logging.getLogger("bitsandbytes")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # on its import it tells everyone which 4-bit kernels a CPU lacks
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError("states: 8bit needs bitsandbytes: pip install 'disback-ray[8bit]'") from None
    finally:
        quiet.setLevel(level)
    return bitsandbytes
