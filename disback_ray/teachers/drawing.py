"""How a teacher draws: as its owners draw from it."""

import torch
from torch import Tensor, nn

from disback_ray.algorithms.sampling import heun
from disback_ray.networks.preconditioning import ConsistencyPrecond, Preconditioning

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, Table 1


def limits(denoiser: nn.Module) -> tuple[float, float]:
    """Between which σ it is sampled: EDM's, or its own where they are tighter."""
    if not isinstance(denoiser, Preconditioning):
        return SIGMA_MIN, SIGMA_MAX
    return max(SIGMA_MIN, denoiser.sigma_min), min(SIGMA_MAX, denoiser.sigma_max)


def draws_in_one_step(denoiser: nn.Module) -> bool:
    return isinstance(denoiser, ConsistencyPrecond) and denoiser.kind == "boundary"


def draw_from_teacher(denoiser: nn.Module, latents: Tensor, condition: Tensor | None, *, steps: int) -> Tensor:
    """The teacher's samples. latents: [B, ...], unit Gaussian noise → [B, ...], float32.

    A diffusion model's in `steps` steps (Karras et al. 2022, Algorithm 2); a consistency model's in one, at σ = 80 (Song et al.
    2023, Algorithm 1), cut to [-1, 1].
    """
    low, high = limits(denoiser)
    if draws_in_one_step(denoiser):
        with torch.no_grad():
            x0: Tensor = denoiser(high * latents, torch.full((len(latents),), high, device=latents.device), condition)
        return x0.clamp(-1, 1)
    if isinstance(denoiser, Preconditioning):
        samples = heun(denoiser, latents, condition, steps=steps, sigma_min=low, sigma_max=high, round_sigma=denoiser.round_sigma)
    else:
        samples = heun(denoiser, latents, condition, steps=steps)
    return samples.to(latents)
