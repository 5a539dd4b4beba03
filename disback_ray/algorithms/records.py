"""What the roles hand to each other: one frozen record a message, each with the version of the weights that made it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from disback_ray.algorithms.noise import Batch

WireDtype = Literal["fp32", "bf16"]
WIRE_BYTES: dict[WireDtype, int] = {"fp32": 4, "bf16": 2}
CROSSINGS = 3
"""Of a sample-shaped tensor in a step: x_0 out, the target's score to s_φ, the difference back (Eq. 8).

One more while a target is blended into the next: the score of the one before.
"""


def rounded(tensor: Tensor, wire: WireDtype) -> Tensor:
    """As it crosses between roles: float32, or rounded to bfloat16, in one process just as between machines. Same shape."""
    return tensor.to(torch.bfloat16 if wire == "bf16" else torch.float32)


@dataclass(frozen=True)
class Sample:
    """x_0 = G(z), detached. x0: [B, ...], in [-1, 1] for images; condition: [B] class ids, or None."""

    batch: Batch
    x0: Tensor
    condition: Tensor | None
    generator_version: int


@dataclass(frozen=True)
class Score:
    """A frozen score at the sample's keyed x_t. score: [B, ...]; node: whose it is, 0 the teacher."""

    batch: Batch
    score: Tensor
    node: int


@dataclass(frozen=True)
class Scored:
    """s_φ has been taken at the sample's keyed x_t, and stays where it is: the fake score subtracts. version: of its weights."""

    batch: Batch
    version: int


@dataclass(frozen=True)
class Field:
    """A gradient for the generator's samples. gradient: [B, ...], already averaged for the step's batch by the weights 1/B."""

    batch: Batch
    gradient: Tensor
    norm: float


@dataclass(frozen=True)
class Drawn:
    """Pictures (or points) for people and measures. x: [n, ...]; condition: [n] class ids, or None."""

    x: Tensor
    condition: Tensor | None


@dataclass(frozen=True)
class Probe:
    """Noisy samples at which scores are compared, to measure. x_t: [B, ...], x_0 + σ ε; sigma: [B]; condition: [B] ids, or None."""

    x_t: Tensor
    sigma: Tensor
    condition: Tensor | None
