"""How a teacher draws: as its owners draw from it."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from disback_ray.algorithms.sampling import MOST_AT_ONCE, ddim, heun, karras_sigmas
from disback_ray.networks.preconditioning import ConsistencyPrecond, Preconditioning
from disback_ray.networks.predictions import VPTablePrecond
from disback_ray.networks.text_unet import TextUNet
from disback_ray.teachers.guidance import NONE, guided

Sampler = Literal["heun", "ddim"]
LATENTS_AT_ONCE = 4
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # Karras et al. 2022, Table 1


def limits(denoiser: nn.Module) -> tuple[float, float]:
    """Between which σ it is sampled: EDM's, or its own where they are tighter."""
    if not isinstance(denoiser, Preconditioning):
        return SIGMA_MIN, SIGMA_MAX
    return max(SIGMA_MIN, denoiser.sigma_min), min(SIGMA_MAX, denoiser.sigma_max)


def draws_in_one_step(denoiser: nn.Module) -> bool:
    return isinstance(denoiser, ConsistencyPrecond) and denoiser.kind == "boundary"


def sampler_of(denoiser: nn.Module) -> Sampler:
    """What its owners draw from it with: DDIM for a VP model that knows a table of times, Heun's method for all else."""
    return "ddim" if isinstance(denoiser, VPTablePrecond) else "heun"


def most_steps(denoiser: nn.Module, sampler: Sampler) -> float:
    """How many steps a sampler can take: DDIM visits times of the table, each once."""
    return denoiser.schedule.steps if isinstance(denoiser, VPTablePrecond) and sampler == "ddim" else math.inf


def most_at_once(denoiser: nn.Module) -> int:
    """How many samples may be drawn together: few of latents, whose U-Nets are wide for the size of what they take."""
    latent = isinstance(denoiser, Preconditioning) and isinstance(denoiser.model, TextUNet)
    return LATENTS_AT_ONCE if latent else MOST_AT_ONCE


def draw_from_teacher(
    denoiser: nn.Module,
    latents: Tensor,
    condition: Tensor | None,
    *,
    steps: int,
    sampler: Sampler | None = None,
    guidance: float = NONE,
) -> Tensor:
    """The teacher's samples. latents: [B, ...], unit Gaussian noise → [B, ...], float32.

    A diffusion model's in `steps` steps, by Heun's method (Karras et al. 2022, Algorithm 2) or DDIM, and by its owners' for None; a
    consistency model's in one, at σ = 80 (Song et al. 2023, Algorithm 1), cut to [-1, 1]. guidance: towards the condition, 1 for none.
    """
    low, high = limits(denoiser)
    if draws_in_one_step(denoiser):
        with torch.no_grad():
            x0: Tensor = denoiser(high * latents, torch.full((len(latents),), high, device=latents.device), condition)
        return x0.clamp(-1, 1)
    chosen, denoise = sampler or sampler_of(denoiser), guided(denoiser, guidance)
    if chosen == "ddim" and isinstance(denoiser, VPTablePrecond):
        sigmas, ends = denoiser.ddim.sigmas(steps, denoiser.schedule)
        start = math.sqrt(1 + float(sigmas[0]) ** 2)  # the latents are x_vp at the first time
        return ddim(denoise, latents, condition, sigmas=sigmas, ends=ends, start=start, clip=denoiser.ddim.clip).to(latents)
    if chosen == "ddim":
        sigmas = karras_sigmas(steps, sigma_min=low, sigma_max=high)
        return ddim(denoise, latents, condition, sigmas=sigmas, start=high).to(latents)
    if isinstance(denoiser, Preconditioning):
        samples = heun(denoise, latents, condition, steps=steps, sigma_min=low, sigma_max=high, round_sigma=denoiser.round_sigma)
    else:
        samples = heun(denoise, latents, condition, steps=steps)
    return samples.to(latents)
