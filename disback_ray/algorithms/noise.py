"""Keyed randomness and the noise laws.

Every draw is a function of (seed, stage, step, sample, tag) alone. So a step can be replayed in any process, and neither the
number of micro-batches nor that of replicas changes what is drawn.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from disback_ray.algorithms.vp_schedule import VPSchedule

Positive = Annotated[float, Gt(0), Lt(math.inf)]


BLOCK = 64
"""So many neighbouring samples share a stream of numbers: drawing a few of them draws no more than the block."""


@dataclass(frozen=True)
class Batch:
    """Names the samples `first … first + size - 1` of one step, and draws their random numbers."""

    seed: int
    stage: str
    step: int
    first: int
    size: int

    def normal(self, tag: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers: [size, *shape], float32, on the CPU."""
        return self._draw(tag, lambda stream, rows: stream.standard_normal((rows, *shape), dtype=np.float32))

    def uniform(self, tag: str) -> Tensor:
        """One number of [0, 1) a sample: [size], float64."""
        return self._draw(tag, lambda stream, rows: stream.random(rows))

    def integers(self, tag: str, high: int) -> Tensor:
        """One whole number of 0 … high - 1 a sample: [size], int64."""
        return self._draw(tag, lambda stream, rows: stream.integers(high, size=rows))

    def _draw(self, tag: str, rows_of: Callable[[np.random.Generator, int], "np.ndarray[Any, Any]"]) -> Tensor:
        """numpy's streams are drawn in order, so a sample's numbers depend on its place in its block and on nothing after it."""
        stop, parts = self.first + self.size, []
        for block in range(self.first // BLOCK, (stop - 1) // BLOCK + 1):
            key = repr((self.seed, self.stage, self.step, block, tag)).encode()
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())))
            start = block * BLOCK
            rows = rows_of(stream, min(stop - start, BLOCK))
            parts.append(rows[max(self.first - start, 0) :])
        return torch.from_numpy(np.concatenate(parts))


def micro_batches(whole: Batch, parts: int) -> list[Batch]:
    """Cuts a step's batch into `parts` equal micro-batches; `parts` divides the batch."""
    size, rest = divmod(whole.size, parts)
    assert rest == 0, (whole.size, parts)
    return [Batch(whole.seed, whole.stage, whole.step, whole.first + part * size, size) for part in range(parts)]


@dataclass(frozen=True)
class KarrasNoise:
    """σ of a level drawn evenly from Karras et al. 2022, Eq. (5), cut to the quantiles low … high, as DMD2 does."""

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    low: Annotated[float, Ge(0), Lt(1)] = 0.02
    high: Annotated[float, Gt(0), Le(1)] = 0.98
    kind: Literal["karras"] = "karras"

    def sigma(self, u: Tensor) -> Tensor:
        """Even numbers u of [0, 1) → σ; same shape, float64. u = 0 is the smallest σ."""
        quantile = self.low + u.double() * (self.high - self.low)
        least, most = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma: Tensor = (least + quantile * (most - least)) ** self.rho
        return sigma


@dataclass(frozen=True)
class LogNormalNoise:
    """ln σ ~ N(mean, std²): the law that EDM trains with (Karras et al. 2022, Table 1)."""

    mean: Annotated[float, Gt(-math.inf), Lt(math.inf)] = -1.2
    std: Positive = 1.2
    kind: Literal["lognormal"] = "lognormal"

    def sigma(self, u: Tensor) -> Tensor:
        """Even numbers u of [0, 1) → σ; same shape, float64."""
        inside = u.double().clamp(1e-12, 1 - 1e-12)
        sigma: Tensor = (self.mean + self.std * torch.special.ndtri(inside)).exp()
        return sigma


@dataclass(frozen=True)
class TimestepNoise:
    """σ of a whole time drawn evenly from low … high of a VP schedule: the law that DDPM trains with (Ho et al. 2020, Algorithm 1).

    high None: the schedule's last.
    """

    schedule: VPSchedule = field(default_factory=VPSchedule)
    low: Annotated[int, Ge(0)] = 0
    high: Annotated[int, Ge(0)] | None = None
    kind: Literal["timesteps"] = "timesteps"

    @property
    def last(self) -> int:
        return self.schedule.steps - 1 if self.high is None else self.high

    def sigma(self, u: Tensor) -> Tensor:
        """Even numbers u of [0, 1) → σ; same shape, float64. u = 0 is the smallest σ."""
        time = self.low + (u.double() * (self.last + 1 - self.low)).floor()
        return self.schedule.sigma(time.clamp(max=self.last))


NoiseLaw = KarrasNoise | LogNormalNoise | TimestepNoise


def span(law: NoiseLaw) -> tuple[float, float]:
    """Between which σ a law draws."""
    if isinstance(law, LogNormalNoise):
        return 0.0, math.inf
    low, high = law.sigma(torch.tensor([0.0, 1.0])).tolist()
    return low, high


@dataclass(frozen=True)
class Noisy:
    """A batch with noise on it. x_t: [B, ...]; sigma: [B] float32, the σ in x_t = x_0 + σ ε."""

    x_t: Tensor
    sigma: Tensor


def add_noise(x0: Tensor, batch: Batch, *, law: NoiseLaw, tag: str) -> Noisy:
    """x_t = x_0 + σ ε (VE), with σ and ε keyed by batch and tag. x0: [B, ...], any device."""
    sigma = law.sigma(batch.uniform(f"{tag}/sigma")).to(x0)
    noise = batch.normal(f"{tag}/noise", tuple(x0.shape[1:])).to(x0)
    return Noisy(x0 + per_sample(sigma, x0) * noise, sigma)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] → [B, 1, ...], so that it multiplies `like` [B, ...] sample by sample."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
