"""A denoiser's score at samples that are there to be looked at, not learnt from."""

from collections.abc import Callable

import torch
from torch import Tensor

from disback_ray.algorithms.losses import score_of
from disback_ray.algorithms.records import Probe


@torch.no_grad()
def score_at(denoiser: Callable[..., Tensor], probe: Probe, *, at_once: int, device: torch.device) -> Tensor:
    """s(x_t, σ) at the probe, `at_once` samples at a time: [B, ...], on the CPU. Nothing of the training is touched."""
    parts = []
    for start in range(0, len(probe.x_t), at_once):
        here = slice(start, start + at_once)
        condition = None if probe.condition is None else probe.condition[here].to(device)
        x_t, sigma = probe.x_t[here].to(device, torch.float32), probe.sigma[here].to(device, torch.float32)
        parts.append(score_of(denoiser, x_t, sigma, condition=condition).cpu())
    return torch.cat(parts)
