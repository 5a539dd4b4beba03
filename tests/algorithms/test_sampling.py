"""Heun's sampler on a Gaussian, whose denoiser and whose flow are known exactly."""

import math

import pytest
import torch
from torch import Tensor

from disback_ray.algorithms.sampling import heun, karras_sigmas

MEAN, SPREAD = 0.3, 0.5


class Gaussian:
    """The exact denoiser of N(MEAN, SPREAD²), which counts its evaluations."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        assert x.dtype == sigma.dtype == torch.float32
        assert sigma.shape == (len(x),)
        self.sigmas.append(sigma[0].item())
        level = sigma.view(-1, 1)
        return (SPREAD**2 * x + level**2 * MEAN) / (SPREAD**2 + level**2)


def error(steps: int) -> float:
    """Against the probability flow's solution: x − MEAN shrinks as √(SPREAD² + σ²)."""
    latents = torch.linspace(-2, 2, 16).reshape(8, 2)
    start = 80 * latents.double()
    exact = MEAN + (start - MEAN) * SPREAD / math.hypot(SPREAD, 80)
    return float((heun(Gaussian(), latents, steps=steps) - exact).abs().max())


def test_the_error_falls_with_the_square_of_the_steps() -> None:
    assert error(64) < 0.005
    assert 3 < error(16) / error(32) < 6


def test_it_costs_two_evaluations_a_step_but_one_for_the_last() -> None:
    denoise = Gaussian()
    samples = heun(denoise, torch.ones(3, 2), steps=5, sigma_min=0.1, sigma_max=10)
    assert samples.dtype == torch.float64
    assert len(denoise.sigmas) == 9
    assert denoise.sigmas[0] == pytest.approx(10)
    assert denoise.sigmas[-1] == pytest.approx(0.1)


def test_one_step_is_the_denoiser() -> None:
    latents = torch.ones(3, 2)
    torch.testing.assert_close(
        heun(Gaussian(), latents, steps=1).float(), Gaussian()(80 * latents, torch.full((3,), 80.0), None), rtol=1e-4, atol=1e-4
    )


def test_the_schedule_is_even_in_the_root_of_sigma() -> None:
    sigmas = karras_sigmas(7, sigma_min=0.002, sigma_max=80, rho=7)
    assert sigmas.dtype == torch.float64
    assert sigmas[-1] == 0
    roots = sigmas[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), torch.full((6,), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 6, dtype=torch.float64))
    assert karras_sigmas(3, sigma_min=1, sigma_max=3, rho=1, round_sigma=torch.floor).tolist() == [3, 2, 1, 0]


def test_the_condition_reaches_the_denoiser() -> None:
    labels = torch.tensor([1, 2, 3])

    def denoise(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is labels
        return torch.zeros_like(x)

    heun(denoise, torch.ones(3, 2), labels, steps=2)
