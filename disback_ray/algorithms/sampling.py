"""Many-step sampling from a denoiser, to look at what a teacher makes."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Drawn

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x [B, …], sigma [B], condition) → x0 [B, …]


MOST_AT_ONCE, NUMBERS_AT_ONCE = 256, 1 << 20
"""Samples that are drawn together, and the numbers in them: 5 images of 3 × 256 × 256, whose features fill a few GB."""


def _same(sigma: Tensor) -> Tensor:
    return sigma


def karras_sigmas(
    steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    round_sigma: Callable[[Tensor], Tensor] = _same,
) -> Tensor:
    """Noise levels from sigma_max to sigma_min, then 0: [steps + 1], float64. Karras et al. 2022, Eq. 5."""
    assert steps >= 1, steps
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([round_sigma((high + ramp * (low - high)) ** rho), torch.zeros(1, dtype=torch.float64)])


@torch.no_grad()
def heun(
    denoise: Denoise,
    latents: Tensor,
    condition: Tensor | None = None,
    *,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    round_sigma: Callable[[Tensor], Tensor] = _same,
) -> Tensor:
    """Deterministic second-order sampling. Karras et al. 2022, Algorithm 2 with S_churn = 0.

    latents: [B, …], unit Gaussian noise → samples [B, …]. The state is float64, `denoise` gets float32.
    Costs 2·steps − 1 evaluations. Give the denoiser's own limits where they are tighter than 0.002 … 80, and
    its `round_sigma` where it has one.
    """
    sigmas = karras_sigmas(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, round_sigma=round_sigma).tolist()

    def slope(x: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        return (x - denoise(x.float(), level, condition).double()) / sigma

    x: Tensor = latents.double() * sigmas[0]
    for now, then in pairwise(sigmas):
        first = slope(x, now)
        euler = x + (then - now) * first
        # The last step ends at σ = 0, where the slope is undefined: Euler's result stands.
        x = euler if then == 0 else x + (then - now) * (first + slope(euler, then)) / 2
    return x


@torch.no_grad()
def ddim(
    denoise: Denoise,
    latents: Tensor,
    condition: Tensor | None = None,
    *,
    sigmas: Tensor,
    ends: Tensor | None = None,
    start: float,
    clip: float | None = None,
) -> Tensor:
    """Deterministic first-order sampling. Song et al. 2021, DDIM, Eq. 12 with η = 0; under VE noise it is Euler's method.

    latents: [B, …], unit Gaussian noise → samples [B, …]. sigmas: [steps + 1], falling; or [steps], and the σ at which each one's step
    ends in `ends`. Where that isn't the next one's, x_vp = x / √(1 + σ²) stays as it is; so it does at the end. start: what the latents
    are scaled by, that is √(1 + σ²) for a VP model's unit noise, or σ. clip: D is cut to ± this, while the noise that goes on is that of
    the uncut D, as in diffusers. The state is float64, `denoise` gets float32. Costs `steps` evaluations.
    """
    visited, ends = (sigmas[:-1], sigmas[1:]) if ends is None else (sigmas, ends)
    x: Tensor = latents.double() * start
    for now, end, then in zip(visited.tolist(), ends.tolist(), [*visited[1:].tolist(), 0.0], strict=True):
        level = torch.full((len(x),), now, dtype=torch.float32, device=x.device)
        denoised = denoise(x.float(), level, condition).double()
        noise = (x - denoised) / now
        x = (denoised if clip is None else denoised.clamp(-clip, clip)) + end * noise
        x = x * math.sqrt((1 + then**2) / (1 + end**2))
    return x


@torch.no_grad()
def draw_in_chunks(
    sample: Callable[[Tensor, Tensor | None], Tensor],
    wanted: Drawn,
    *,
    seed: int,
    device: torch.device,
    first: int = 0,
    most: int = MOST_AT_ONCE,
) -> Tensor:
    """sample(z, condition) for the shape and classes of `wanted`, in bounded memory: [n, ...]. most: samples that are drawn together.

    z: unit Gaussian noise, keyed by the seed and each sample's number: a sample is the same whatever else is drawn.
    first: the number of the first sample.
    """
    parts = []
    chunk = max(1, min(most, NUMBERS_AT_ONCE // max(1, wanted.x[:1].numel())))
    for start in range(0, len(wanted.x), chunk):
        batch = Batch(seed, "draw", 0, first + start, min(chunk, len(wanted.x) - start))
        z = batch.normal("z", tuple(wanted.x.shape[1:])).to(device)
        condition = None if wanted.condition is None else wanted.condition[start : start + batch.size].to(device)
        parts.append(sample(z, condition))
    return torch.cat(parts)


def classes_evenly(count: int, classes: int) -> Tensor:
    """The classes in turn, [count] int64; where they are more than the samples, evenly chosen ones."""
    turn = torch.arange(count)
    return turn * classes // count if classes > count else turn % classes
