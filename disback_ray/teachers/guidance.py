"""Classifier-free guidance (Ho and Salimans 2022), of targets only: s_φ is the generator's score, and nothing guides that."""

import torch
from torch import Tensor

from disback_ray.algorithms.sampling import Denoise

NONE, USUAL = 1.0, 8.0
"""The second is the authors' for SDXL."""


def guided(denoiser: Denoise, scale: float) -> Denoise:
    """D(x, σ, -1) + scale · (D(x, σ, c) - D(x, σ, -1)), -1 being no class and no prompt; for a scale of 1 the denoiser itself.

    ε, v and x_0 are affine in one another at one (x, σ), so this is the guidance of any of them.
    """
    if scale == NONE:
        return denoiser

    def denoise(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is not None, "guidance needs a condition to be guided to"
        level = sigma.expand(len(x))
        both = denoiser(torch.cat([x, x]), torch.cat([level, level]), torch.cat([torch.full_like(condition, -1), condition]))
        without, with_it = both.chunk(2)
        return without + scale * (with_it - without)

    return denoise
