"""Preconditionings against their definitions, and labels in all the forms they come in."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from disback_ray.networks.preconditioning import (
    ConsistencyPrecond,
    EDMPrecond,
    Preconditioning,
    VEPrecond,
    VPPrecond,
    one_hot,
)

SIGMA = [0.002, 0.3, 1.0, 80.0]


class Probe(nn.Module):
    """Returns a constant and keeps what it was given."""

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        self.x, self.noise, self.labels = x, noise, labels
        return torch.full_like(x, 3.0)


def vp_time(sigma: float) -> float:
    """σ(t) = √(e^{9.95 t² + 0.1 t} − 1), inverted by bisection."""
    low, high = 0.0, 2.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(9.95 * middle**2 + 0.1 * middle) < sigma**2 else (low, middle)
    return low


# Karras et al. 2022, Table 1: c_skip, c_out, c_in, c_noise as functions of σ.
TABLE: dict[str, tuple[Callable[[nn.Module], Preconditioning], Callable[[float], tuple[float, float, float, float]]]] = {
    "EDM": (
        EDMPrecond,
        lambda s: (0.25 / (s**2 + 0.25), s * 0.5 / math.hypot(s, 0.5), 1 / math.hypot(s, 0.5), math.log(s) / 4),
    ),
    "VP": (VPPrecond, lambda s: (1, -s, 1 / math.hypot(s, 1), 999 * vp_time(s))),
    "VE": (VEPrecond, lambda s: (1, s, 1, math.log(s / 2))),
    "consistency": (
        ConsistencyPrecond,
        lambda s: (
            0.25 / ((s - 0.002) ** 2 + 0.25),
            (s - 0.002) * 0.5 / math.hypot(s, 0.5),
            1 / math.hypot(s, 0.5),
            250 * math.log(s),
        ),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_factors_are_those_of_the_paper(name: str) -> None:
    make, factors = TABLE[name]
    probe = Probe()
    x = torch.linspace(-2, 2, 4 * 5).reshape(4, 1, 1, 5)
    denoised = make(probe)(x, torch.tensor(SIGMA))
    for index, sigma in enumerate(SIGMA):
        skip, out, inside, noise = factors(sigma)
        torch.testing.assert_close(denoised[index], skip * x[index] + out * 3.0, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(probe.x[index], inside * x[index])
        torch.testing.assert_close(probe.noise[index].item(), noise, rtol=1e-3, atol=2e-2 if name == "VP" else 1e-4)


def test_the_boundary_is_exact() -> None:
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    denoiser = ConsistencyPrecond(Probe())
    torch.testing.assert_close(denoiser(x, torch.full((3,), 0.002)), x, rtol=0, atol=0)
    torch.testing.assert_close(
        ConsistencyPrecond(Probe(), kind="standard")(x, torch.tensor(SIGMA[:3])), EDMPrecond(Probe())(x, torch.tensor(SIGMA[:3]))
    )


def test_limits_of_the_noise_levels() -> None:
    assert (EDMPrecond(Probe()).sigma_min, EDMPrecond(Probe()).sigma_max) == (0, math.inf)
    assert (VEPrecond(Probe()).sigma_min, VEPrecond(Probe()).sigma_max) == (0.02, 100)
    assert vp_time(VPPrecond(Probe()).sigma_min) == pytest.approx(1e-5, rel=1e-3)
    assert vp_time(VPPrecond(Probe()).sigma_max) == pytest.approx(1)


def test_points_work_like_images() -> None:
    x = torch.ones(4, 2)
    assert EDMPrecond(Probe())(x, torch.tensor(SIGMA)).shape == (4, 2)
    torch.testing.assert_close(EDMPrecond(Probe())(x, torch.tensor([0.3]))[2], EDMPrecond(Probe())(x, torch.tensor(SIGMA))[1])


def test_labels_reach_the_network_as_rows() -> None:
    probe = Probe()
    denoiser, x, sigma = EDMPrecond(probe, label_dim=3), torch.ones(4, 1, 1, 1), torch.ones(4)
    denoiser(x, sigma, torch.tensor([2, -1, 0, 1]))
    assert probe.labels is not None
    assert probe.labels.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]]
    rows = torch.eye(4)[:, :3]
    denoiser(x, sigma, rows)
    assert torch.equal(probe.labels, rows)
    denoiser(x, sigma)
    assert probe.labels.tolist() == [[0, 0, 0]]
    EDMPrecond(probe)(x, sigma)
    assert probe.labels is None


@pytest.mark.parametrize("label", [-2, 3, 1000])
def test_a_label_out_of_range_is_an_error(label: int) -> None:
    with pytest.raises(RuntimeError):
        one_hot(torch.tensor([label]), 3, device=torch.device("cpu"))


def test_labels_for_an_unconditional_network_are_an_error() -> None:
    for make in (EDMPrecond, ConsistencyPrecond):
        with pytest.raises(AssertionError, match="unconditional"):
            make(Probe())(torch.ones(1, 1), torch.ones(1), torch.tensor([0]))


def test_low_precision_runs_the_network_and_leaves_its_weights() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(8, 8)

        def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
            self.dtype = self.line(x).dtype
            return self.line(x)  # type: ignore[no-any-return]

    line, x = Line(), torch.linspace(-1, 1, 16).reshape(2, 8)
    exact = EDMPrecond(line)(x, torch.ones(2))
    assert line.dtype == torch.float32
    rounded = EDMPrecond(line, compute_dtype=torch.bfloat16)(x, torch.ones(2))
    assert line.dtype == torch.bfloat16
    assert line.line.weight.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)
