"""Eqs. (1) to (8) in float64, on mixtures whose scores are known exactly: against autograd, finite differences and closed forms.

Expectations over z and ε are Gauss–Hermite quadratures, not samples, so that both sides of an equation agree to many digits.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from disback_ray.algorithms.losses import blended, denoising_loss, score, score_difference, score_of
from disback_ray.teachers.mixture import ExactMixture

SIGMAS = [0.3, 1.0, 4.0]
CENTRES, STD = torch.tensor([[-1.5], [0.4], [2.0]], dtype=torch.float64), 0.6
every_sigma = pytest.mark.parametrize("sigma", SIGMAS)


def normal_nodes(count: int = 60) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite: Σ w_i f(a_i) = E f(a) for a ~ N(0, 1). Each [count]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def log_q(x: Tensor, sigma: float, *, centres: Tensor = CENTRES, std: float = STD) -> Tensor:
    """ln q_σ(x) of the mixture with noise on it, by torch.distributions: [B, D] → [B]."""
    spread = torch.full_like(centres, math.hypot(std, sigma))
    return MixtureSameFamily(Categorical(torch.ones(len(centres))), Independent(Normal(centres, spread), 1)).log_prob(x)


def gradient(value: Tensor, *by: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value.sum(), by, retain_graph=True))


# -- Eq. (18): scores from denoisers --


@every_sigma
def test_the_exact_score_is_the_gradient_of_the_log_density(sigma: float) -> None:
    """s = (D - x_t) / σ² is ∇ ln q_t: by autograd, and by central differences."""
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)[:, None].requires_grad_()
    ours = score_of(ExactMixture(CENTRES, std=STD), x, torch.full((33,), sigma, dtype=torch.float64), condition=None)
    torch.testing.assert_close(ours, gradient(log_q(x, sigma), x)[0], rtol=1e-10, atol=1e-10)
    step = 1e-5
    differences = (log_q(x + step, sigma) - log_q(x - step, sigma)) / (2 * step)
    torch.testing.assert_close(ours[:, 0], differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.25, 2 / 3, 1.0])
def test_a_blend_is_the_mean_of_two_scores(share: float) -> None:
    """Against float64 by hand; at its ends one of them alone, and where they agree what both say, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    left, wanted = (torch.randn(64, 3, generator=generator) for _ in range(2))
    found = blended(left, wanted, share=share)
    expected = (1 - share) * left.double() + share * wanted.double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert share not in (0, 1) or torch.equal(found, wanted if share else left)
    assert torch.equal(blended(left, left, share=share), left)


def test_a_denoiser_s_score_is_minus_its_noise_over_sigma() -> None:
    """x̂_0 = x_t - σ ε̂ makes Eqs. (18) and (19) one: s = -ε̂ / σ. Images, each with its own σ."""
    generator = torch.Generator().manual_seed(0)
    x_t, epsilon = (torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    column = sigma[:, None, None, None]
    torch.testing.assert_close(score(x_t - column * epsilon, x_t, sigma), -epsilon / column)


def test_the_condition_goes_to_the_denoiser() -> None:
    x_t, sigma, condition = torch.ones(2, 1), torch.ones(2), torch.tensor([3, 5])
    assert score_of(lambda x, s, c: x + s[:, None] * c[:, None], x_t, sigma, condition=condition).tolist() == [[3], [5]]


# -- Eqs. (5) and (7) --


def test_equation_5_is_the_weighted_score_matching() -> None:
    """λ(t) ‖s_φ(x_t) - ∇ ln q(x_t | x_0)‖², λ = σ⁴ (σ² + σ_d²) / (σ σ_d)², the gradient by autograd. Each sample by itself."""
    generator = torch.Generator().manual_seed(1)
    x0, denoised, epsilon = (torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma, sigma_data = torch.tensor([0.02, 0.3, 1.0, 4.0, 70.0], dtype=torch.float64), 0.7
    column = sigma[:, None, None, None]
    x_t = (x0 + column * epsilon).requires_grad_()
    (conditional,) = gradient(Normal(x0, column).log_prob(x_t), x_t)  # ∇ ln q(x_t | x_0)
    matching = (score(denoised, x_t, sigma) - conditional).square().flatten(1).mean(1)
    weight = sigma**4 * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    ours = denoising_loss(denoised, x0, sigma, sigma_data=sigma_data)
    assert ours.shape == (5,)
    torch.testing.assert_close(ours, weight * matching, rtol=1e-7, atol=0)


@every_sigma
def test_equation_5_teaches_the_marginal_score(sigma: float) -> None:
    """Its gradient in φ is that of λ(t) E‖s_φ(x_t) - ∇ ln q_t(x_t)‖²: denoising score matching is score matching (Vincent 2011)."""
    nodes, weights = normal_nodes()
    a, b = (grid.flatten() for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    x0 = (CENTRES + STD * a).reshape(-1, 1)
    x_t = x0 + sigma * b.repeat(len(CENTRES))[:, None]
    mass = torch.outer(weights, weights).flatten().repeat(len(CENTRES)) / len(CENTRES)
    level = torch.full((len(x_t),), sigma, dtype=torch.float64)
    phi = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64, requires_grad=True)
    denoised = phi[0] + phi[1] * x_t + phi[2] * torch.sin(x_t)  # any D_φ

    (ours,) = gradient(mass * denoising_loss(denoised, x0, level, sigma_data=0.5), phi)
    exact = score_of(ExactMixture(CENTRES, std=STD), x_t, level, condition=None)
    distance = (score(denoised, x_t, level) - exact).square()[:, 0]
    (explicit,) = gradient(mass * sigma**4 * (sigma**-2 + 0.5**-2) * distance, phi)
    torch.testing.assert_close(ours, explicit, rtol=1e-6, atol=1e-8)


# -- Eqs. (6) and (8) --


@dataclass(frozen=True)
class Student:
    """x_0 = G(z) = μ + s z, whose noisy distribution N(μ, s² + σ²) has a known score. η = (μ, s)."""

    mean: Tensor
    spread: Tensor

    def kl(self, sigma: float, centres: Tensor) -> Tensor:
        """KL(q^G_t ‖ q_t): in closed form for one centre, by quadrature for more."""
        noisy = Normal(self.mean, (self.spread**2 + sigma**2).sqrt())
        if len(centres) == 1:
            return kl_divergence(noisy, Normal(centres[0, 0], math.hypot(STD, sigma)))
        nodes, weights = normal_nodes(120)
        x = noisy.loc + noisy.scale * nodes
        return (weights * (noisy.log_prob(x) - log_q(x[:, None], sigma, centres=centres))).sum()

    def equation_8(self, sigma: float, centres: Tensor, *, weighting: str = "score_difference") -> list[Tensor]:
        """∂/∂η by our field: back-propagated through G alone, over quadratures of z and ε."""
        nodes, weights = normal_nodes()
        z, epsilon = (grid.flatten() for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
        x0 = (self.mean + self.spread * z)[:, None]
        x_t, level = (x0 + sigma * epsilon[:, None]).detach(), torch.full_like(z, sigma)
        own = ExactMixture(self.mean.detach().reshape(1, 1), std=self.spread.item())
        current, wanted = (score_of(d, x_t, level, condition=None) for d in (own, ExactMixture(centres, std=STD)))
        field = score_difference(current, wanted, noise=x_t - x0.detach(), sigma=level, weighting=weighting)  # type: ignore[arg-type]
        mass = torch.outer(weights, weights).flatten()[:, None]
        return list(torch.autograd.grad(x0, [self.mean, self.spread], mass * field))


def student(mean: float, spread: float) -> Student:
    return Student(*(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (mean, spread)))


STARTS = [(-2.0, 0.5), (1.0, 1.5), (3.0, 0.2)]


@every_sigma
@pytest.mark.parametrize("start", STARTS)
def test_equation_8_is_the_gradient_of_the_kl_to_a_gaussian(start: tuple[float, float], sigma: float) -> None:
    """With w = σ²: σ² ∂KL/∂μ = σ² (μ - m) / (v² + σ²) and σ² ∂KL/∂s = σ² s [1/(v² + σ²) - 1/(s² + σ²)]."""
    player, centre = student(*start), CENTRES[1:2]
    (mean, spread), target = start, STD**2 + sigma**2
    by_hand = [(mean - float(centre)) / target, spread / target - spread / (spread**2 + sigma**2)]
    by_autograd = torch.autograd.grad(player.kl(sigma, centre), [player.mean, player.spread])
    ours = player.equation_8(sigma, centre)
    np.testing.assert_allclose(ours, [sigma**2 * part for part in by_hand], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours, [sigma**2 * part for part in by_autograd], rtol=1e-9, atol=1e-12)


@every_sigma
@pytest.mark.parametrize("start", STARTS)
def test_equation_8_is_the_gradient_of_the_kl_to_a_mixture(start: tuple[float, float], sigma: float) -> None:
    """Against central differences of the KL itself (Eqs. 2 and 4)."""
    mean, spread, step = *start, 1e-4
    around = [
        (student(mean + step, spread), student(mean - step, spread)),
        (student(mean, spread + step), student(mean, spread - step)),
    ]
    with torch.no_grad():
        differences = [float(up.kl(sigma, CENTRES) - down.kl(sigma, CENTRES)) / (2 * step) for up, down in around]
    ours = student(*start).equation_8(sigma, CENTRES)
    np.testing.assert_allclose(ours, [sigma**2 * part for part in differences], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", ["score_difference", "dmd"])
@pytest.mark.parametrize("start", STARTS)
def test_descending_lowers_the_kl(start: tuple[float, float], weighting: str) -> None:
    player, centre = student(*start), CENTRES[1:2]
    ours = player.equation_8(1.0, centre, weighting=weighting)
    moved = student(*(float(value - 0.05 * part) for value, part in zip(start, ours, strict=True)))
    assert moved.kl(1.0, centre) < player.kl(1.0, centre)


def images(*pixels: float) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float64).reshape(2, 1, 2, 2)


def field(weighting: str, *, denoised: Tensor, target: Tensor) -> Tensor:
    """The field of two images, x_0 = 1 and σ = 0.5 and 3, for what s_φ and the target take their x_t for: D_φ and D_target."""
    x0, sigma = torch.ones_like(denoised), torch.tensor([0.5, 3.0], dtype=torch.float64)
    noise = sigma[:, None, None, None] * torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2)
    current, wanted = (score(d, x0 + noise, sigma) for d in (denoised, target))
    return score_difference(current, wanted, noise=noise, sigma=sigma, weighting=weighting)  # type: ignore[arg-type]


def test_weighted_by_sigma_squared_it_is_the_difference_of_the_denoised() -> None:
    fake, target = images(0, 1, 2, 3, 4, 5, 6, 7) / 3, images(7, 1, 0, 2, 1, 1, 4, 9) / 5
    torch.testing.assert_close(field("score_difference", denoised=fake, target=target), fake - target)


def test_the_normaliser_of_dmd_by_hand() -> None:
    """(p_real - p_fake) / mean|p_real| with p = x_0 - D, each image by itself: |1 - 0|, |1 - 2|, |1 - 4|, |1 - 1| have the mean 5/4."""
    fake, target = images(0, 1, 2, 3, 4, 5, 6, 7) / 3, images(0, 2, 4, 1, 11, 11, -9, -9)
    ours = field("dmd", denoised=fake, target=target)
    torch.testing.assert_close(ours, (fake - target) / torch.tensor([1.25, 10.0]).reshape(2, 1, 1, 1))


def test_the_normaliser_s_floor() -> None:
    """Where the target calls the sample perfect there is nothing to divide by: 1e-5 stands in, and the field stays finite."""
    perfect = images(*[1.0] * 8)
    fake = perfect + images(0, 1, 2, 3, 4, 5, 6, 7) * 1e-6
    torch.testing.assert_close(field("dmd", denoised=fake, target=perfect), (fake - perfect) / 1e-5, rtol=1e-6, atol=1e-9)


def test_without_a_sigma_data_the_loss_is_that_of_the_noise() -> None:
    """Ho et al. 2020, Eq. 14: with D = x_t - σ ε̂, λ_D (D - x_0)² = (ε̂ - ε)²."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, guess = torch.randn(3, 5, 2, dtype=torch.float64, generator=generator)
    sigma = torch.tensor([0.01, 0.3, 1.0, 5.0, 80.0], dtype=torch.float64)
    denoised = x0 + sigma[:, None] * (noise - guess)
    losses = denoising_loss(denoised, x0, sigma, sigma_data=None)
    torch.testing.assert_close(losses, (guess - noise).square().mean(1))
