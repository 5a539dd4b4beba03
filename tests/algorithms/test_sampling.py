"""Heun's sampler on a Gaussian, whose denoiser and whose flow are known exactly."""

import math

import pytest
import torch
from torch import Tensor

from disback_ray.algorithms.sampling import ddim, heun, karras_sigmas

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


# ---- DDIM


def ddim_error(steps: int) -> float:
    latents = torch.linspace(-2, 2, 16).reshape(8, 2)
    exact = MEAN + (80 * latents.double() - MEAN) * SPREAD / math.hypot(SPREAD, 80)
    return float((ddim(Gaussian(), latents, sigmas=karras_sigmas(steps), start=80.0) - exact).abs().max())


def test_ddim_solves_the_same_flow_with_an_error_that_falls_with_the_steps() -> None:
    assert ddim_error(256) < 0.02
    assert 1.7 < ddim_error(32) / ddim_error(64) < 2.3


def test_ddim_costs_one_evaluation_a_step_and_its_last_is_the_denoiser() -> None:
    denoise = Gaussian()
    latents = torch.ones(3, 2)
    levels = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    ddim(denoise, latents, sigmas=levels, start=3.0)
    assert denoise.sigmas == [3.0, 1.0]
    one = ddim(Gaussian(), latents, sigmas=levels[[0, 2]], start=3.0)
    torch.testing.assert_close(one, Gaussian()(3 * latents, torch.full((3,), 3.0), None).double())
    cut = ddim(Gaussian(), latents, sigmas=levels[[0, 2]], start=3.0, clip=0.1)
    assert cut.abs().max() <= 0.1


def test_ddim_can_end_at_noise_of_a_vp_model() -> None:
    """Then what comes out is x_vp: the noise's and the data's variances are 1 together."""
    levels = torch.tensor([3.0, 1.0], dtype=torch.float64)
    latents = torch.ones(1, 1)
    denoised = Gaussian()(3 * latents, torch.tensor([3.0]), None).double()
    expected = (denoised + (3 * latents - denoised) / 3) / math.sqrt(2)
    torch.testing.assert_close(ddim(Gaussian(), latents, sigmas=levels, start=3.0), expected)
