"""Equations (5) to (8): the fake score's loss and the generator's gradient, for denoisers in the VE convention.

D(x_t, σ) is a denoiser's estimate of x_0. Its score is s(x_t, σ) = (D(x_t, σ) - x_t) / σ².
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from disback_ray.algorithms.noise import per_sample

Weighting = Literal["score_difference", "dmd"]
NORMALISER_FLOOR = 1e-5


def score(denoised: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """s = (D - x_t) / σ² (Eq. 18 for an x_0-prediction under VE noise). denoised, x_t: [B, ...]; sigma: [B].

    In float32 at least: at a small σ, D and x_t differ by less than bfloat16 can tell.
    """
    denoised, x_t, sigma = (t if t.dtype == torch.float64 else t.float() for t in (denoised, x_t, sigma))
    return (denoised - x_t) / per_sample(sigma, x_t) ** 2


def score_of(denoiser: Callable[..., Tensor], x_t: Tensor, sigma: Tensor, *, condition: Tensor | None) -> Tensor:
    """A denoiser's score at x_t. x_t: [B, ...], data + σ noise; sigma: [B]; condition: [B] class ids, or None → [B, ...]."""
    return score(denoiser(x_t, sigma, condition), x_t, sigma)


def blended(left: Tensor, wanted: Tensor, *, share: float) -> Tensor:
    """(1 - a) s_n + a s_{n-1} at the same x_t, where they agree their own value. left, wanted: [B, ...]; share: a, in [0, 1]."""
    return torch.lerp(left, wanted, share)


def denoising_loss(denoised: Tensor, x0: Tensor, sigma: Tensor, *, sigma_data: float | None) -> Tensor:
    """Eqs. (5) and (7) as each sample's loss: [B]; the mean over all axes but the batch of λ_D (D - x_0)².

    ‖s_φ - ∇ log q(x_t | x_0)‖² = ‖D - x_0‖² / σ⁴, and EDM's weighting λ_D = 1/σ² + 1/σ_data² makes λ(t) = σ⁴ λ_D.
    sigma_data None: λ_D = 1/σ², which is DDPM's loss of ε (Ho et al. 2020, Eq. 14).
    """
    weight = sigma**-2 if sigma_data is None else sigma**-2 + sigma_data**-2
    return weight * (denoised - x0).square().flatten(1).mean(1)


def score_difference(current: Tensor, wanted: Tensor, *, noise: Tensor, sigma: Tensor, weighting: Weighting) -> Tensor:
    """Eqs. (6) and (8): w(t) [s_φ(x_t, t) - s_target(x_t, t)], the gradient that the generator's sample x_0 gets.

    current, wanted: s_φ and s_target at the same x_t, [B, ...]; noise: x_t - x_0, [B, ...]; sigma: [B].
    `score_difference`: w = σ², which makes the levels of noise comparable: the difference of the two denoised images.
    `dmd`: that over mean|x_0 - D_target|, each sample by itself (Yin et al. 2024, DMD, Eq. 8), with a floor of 1e-5.
    """
    variance = per_sample(sigma, current) ** 2
    difference = variance * (current - wanted)
    if weighting == "score_difference":
        return difference
    residual = noise + variance * wanted  # D_target - x_0
    scale = residual.abs().flatten(1).mean(1).clamp_min(NORMALISER_FLOOR)
    return difference / per_sample(scale, difference)
