"""The noise schedule of a VP model (DDPM, Ho et al. 2020): x_vp = α_t x_0 + σ_t ε, α_t² = ᾱ_t, σ_t² = 1 - ᾱ_t, at t = 0 … T - 1.

Here all noise is VE. x_vp / α_t = x_0 + σ ε with σ = σ_t / α_t: so a schedule is a table of σ, and its times are found from them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

CPU = torch.device("cpu")  # said everywhere: torch's default device is `meta` where a network's weights are still to come
Beta = Annotated[float, Gt(0), Lt(1)]
MOST_STEPS = 100_000
"""Published ones have 1,000 or 4,000; a table of what a damaged file claims would fill the memory."""
SNAP = 1e-3
"""A time so near to a whole one is that one: what float32 does to σ is worth 2e-5 of a step, and to diffusers' own tables 5e-4."""


@dataclass(frozen=True)
class VPSchedule:
    """β_t from `beta_start` to `beta_end` in `steps` steps.

    kind: β is linear in t (DDPM), √β is (`scaled_linear`, Stable Diffusion), or ᾱ is a cosine (Nichol and Dhariwal 2021, Eq. 17;
    it needs no ends). betas: a table of `steps` values in place of that.
    """

    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    steps: Annotated[int, Ge(2), Le(MOST_STEPS)] = 1000
    kind: Literal["linear", "scaled_linear", "cosine"] = "linear"
    betas: tuple[Beta, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps: {self.steps}: {MOST_STEPS} at most")
        if self.betas is not None and len(self.betas) != self.steps:
            raise ValueError(f"betas: {len(self.betas)} values for steps: {self.steps}")

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t: [T], float64, falling."""
        return (1 - _betas(self)).cumprod(0)

    @property
    def sigmas(self) -> Tensor:
        """σ_t / α_t: [T], float64, rising."""
        return _log_sigmas(self, CPU).exp()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma(self, time: Tensor) -> Tensor:
        """σ at times of 0 … T - 1, ln σ linear between two whole ones: same shape, float64."""
        table = _log_sigmas(self, time.device)
        t = time.double().clamp(0, len(table) - 1)
        below = t.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[below], table[below + 1], t - below).exp()

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse: the time of σ, in 0 … T - 1, same shape, float64. Beyond the table it is the end's.

        Between two times ln σ is linear, as in k-diffusion: networks know time by a smooth embedding, and one that is told the
        nearest whole time would remove up to half a step's noise too much or too little.
        """
        table = _log_sigmas(self, sigma.device)
        log = sigma.double().log().clamp(table[0], table[-1])
        above = torch.searchsorted(table, log.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        t = above - 1 + (log - low) / (high - low)
        return torch.where((t - t.round()).abs() < SNAP, t.round(), t)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The table's level that is nearest in time: same shape and type."""
        return self.sigma(self.time(sigma).round()).to(sigma.dtype)


@dataclass(frozen=True)
class DDIMSettings:
    """How the owners of a VP model draw from it by DDIM, in the terms of diffusers' DDIMScheduler (its steps_offset and so on).

    spacing: of the times that are visited (Lin et al. 2024, Table 2); to_zero: the last step ends without noise, else at time 0's;
    clip: the predicted x_0 is cut to ± this.
    """

    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    offset: int = 0
    to_zero: bool = True
    clip: float | None = None

    def times(self, steps: int, schedule: VPSchedule) -> Tensor:
        """The times that are visited: int64 [steps], falling."""
        return self._visited(steps, schedule).clamp(0, schedule.steps - 1)

    def sigmas(self, steps: int, schedule: VPSchedule) -> tuple[Tensor, Tensor]:
        """Their σ, and that at which each one's step ends: [steps] and [steps], float64, falling.

        As in diffusers, a step is T // steps times long wherever the next time lies: with `trailing` and `linspace` that is not quite
        there, and x_vp goes on as it is.
        """
        table, most = schedule.sigmas, schedule.steps - 1
        visited = self._visited(steps, schedule)
        ends = visited - schedule.steps // steps
        last = 0.0 if self.to_zero else schedule.sigma_min
        return table[visited.clamp(0, most)], torch.where(ends < 0, last, table[ends.clamp(0, most)])

    def _visited(self, steps: int, schedule: VPSchedule) -> Tensor:
        """In numpy, as diffusers has it: half times are rounded as its floating-point numbers fall."""
        count = schedule.steps
        assert 1 <= steps <= count, (steps, count)
        if self.spacing == "leading":
            times = np.arange(steps - 1, -1, -1.0) * (count // steps) + self.offset
        elif self.spacing == "trailing":
            times = np.arange(count, 0, -count / steps)[:steps].round() - 1  # which may have one too many, beyond time 0
        else:
            times = np.linspace(0, count - 1, steps).round()[::-1]
        return torch.from_numpy(times.astype(np.int64))


# Tables are made once for a schedule and a device.
@lru_cache(maxsize=32)
def _betas(schedule: VPSchedule) -> Tensor:
    if schedule.betas is not None:
        return torch.tensor(schedule.betas, dtype=torch.float64, device=CPU)
    if schedule.kind == "cosine":
        times = torch.linspace(0, 1, schedule.steps + 1, dtype=torch.float64, device=CPU)
        bars = ((times + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - bars[1:] / bars[:-1]).clamp(max=0.999)
    power = 2.0 if schedule.kind == "scaled_linear" else 1.0
    low, high = schedule.beta_start ** (1 / power), schedule.beta_end ** (1 / power)
    return torch.linspace(low, high, schedule.steps, dtype=torch.float64, device=CPU).pow(power)


@lru_cache(maxsize=64)
def _log_sigmas(schedule: VPSchedule, device: torch.device) -> Tensor:
    bars = (1 - _betas(schedule)).cumprod(0)
    return (((1 - bars) / bars).log() / 2).to(device)


def forget_tables() -> None:
    """Drops the tables that were made: a plan makes some without data."""
    _betas.cache_clear()
    _log_sigmas.cache_clear()
