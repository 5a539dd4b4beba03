"""The exact denoiser against E[x_0 | x_t] by numerical integration, and Tweedie's formula by autograd."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from disback_ray.teachers.mixture import ExactMixture

CENTRES, STD = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.2, -2.0]], dtype=torch.float64), 0.4
POINTS = torch.tensor([[0.0, 0.0], [-1.1, 0.6], [3.0, -3.0], [0.4, 2.0]], dtype=torch.float64)


def density(spread: float) -> MixtureSameFamily:
    """The mixture's, with noise on it where spread > STD."""
    return MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(CENTRES, torch.full_like(CENTRES, spread)), 1))


def denoised(x: Tensor, sigma: float) -> Tensor:
    found: Tensor = ExactMixture(CENTRES, std=STD)(x, torch.full((len(x),), sigma, dtype=x.dtype))
    return found


@pytest.mark.parametrize("sigma", [0.2, 1.0, 6.0])
def test_it_is_the_mean_of_x0_given_x_t(sigma: float) -> None:
    """∫ x_0 q(x_0) N(x_t; x_0, σ²) dx_0 over ∫ q(x_0) N(x_t; x_0, σ²) dx_0, on a grid that has all of q."""
    line = torch.linspace(-5, 5, 301, dtype=torch.float64)
    x0 = torch.cartesian_prod(line, line)
    log_weight = density(STD).log_prob(x0) + Normal(x0, sigma).log_prob(POINTS[:, None]).sum(-1)
    torch.testing.assert_close(denoised(POINTS, sigma), torch.softmax(log_weight, 1) @ x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 80.0])
def test_tweedie(sigma: float) -> None:
    """D = x_t + σ² ∇ ln q_t(x_t)."""
    x = POINTS.clone().requires_grad_()
    (score,) = torch.autograd.grad(density(math.hypot(STD, sigma)).log_prob(x).sum(), x)
    torch.testing.assert_close(denoised(POINTS, sigma), POINTS + sigma**2 * score, rtol=1e-9, atol=1e-9)


def test_each_sample_has_its_own_sigma_and_the_type_of_x() -> None:
    sigmas = torch.tensor([0.1, 1.0, 5.0, 50.0])
    together = ExactMixture(CENTRES, std=STD)(POINTS.float(), sigmas)
    assert together.dtype == torch.float32
    alone = torch.cat([denoised(x[None], float(sigma)) for x, sigma in zip(POINTS, sigmas, strict=True)])
    torch.testing.assert_close(together.double(), alone, rtol=1e-6, atol=1e-6)


def test_far_from_every_mode_and_almost_without_noise_it_is_finite() -> None:
    """There every mode's density underflows: what is left is the nearest mode's."""
    far = torch.tensor([[-900.0, 500.0]], dtype=torch.float64)
    shrink = STD**2 / (STD**2 + 1e-6)
    torch.testing.assert_close(denoised(far, 1e-3), CENTRES[:1] + shrink * (far - CENTRES[:1]))
