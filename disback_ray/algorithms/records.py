"""What the roles hand to each other: one frozen record a message, each with the version of the weights that made it."""

from dataclasses import dataclass

from torch import Tensor

from disback_ray.algorithms.noise import Batch


@dataclass(frozen=True)
class Sample:
    """x_0 = G(z), detached. x0: [B, ...], in [-1, 1] for images; condition: [B] class ids, or None."""

    batch: Batch
    x0: Tensor
    condition: Tensor | None
    generator_version: int


@dataclass(frozen=True)
class Score:
    """A score at the sample's keyed x_t. score: [B, ...]. node: whose it is (0 the teacher), None for s_φ; version: s_φ's."""

    batch: Batch
    score: Tensor
    node: int | None
    version: int | None


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
