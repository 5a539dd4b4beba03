"""Preconditionings: D(x; σ) = c_skip x + c_out F(c_in x, c_noise), factors of σ. Karras et al. 2022, Eq. 7.

All noise is VE: x = x0 + σ ε. Computation is in float32.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Scalings:
    """The four factors of Karras et al. 2022, Eq. 7, each [B]."""

    skip: Tensor
    out: Tensor
    inside: Tensor
    noise: Tensor


def one_hot(condition: Tensor | None, label_dim: int, *, device: torch.device) -> Tensor | None:
    """Labels as the rows that networks take: [B, label_dim], float32. No label (−1, or None for all): zeros.

    condition: int64 [B] in −1 … label_dim − 1, or rows already. An unconditional network gets None.
    A label out of range is an error of torch's (on a GPU, its assertion): no check waits for the device.
    """
    if label_dim == 0:
        assert condition is None, "labels were given to an unconditional network"
        return None
    if condition is None:
        return torch.zeros(1, label_dim, device=device)
    if condition.is_floating_point():
        assert condition.shape[-1] == label_dim, f"one-hot labels of width {condition.shape[-1]}, not {label_dim}"
        return condition.to(device=device, dtype=torch.float32)
    index = condition.to(device).reshape(-1, 1) + 1
    return torch.zeros(len(index), label_dim + 1, device=device).scatter_(1, index, 1.0)[:, 1:]


class Preconditioning(nn.Module, ABC):
    """A network F turned into the denoiser D(x; σ); subclasses give the scalings.

    `compute_dtype`: float32, or bfloat16/float16 to run F under autocast with its weights kept as they are.
    """

    sigma_min: float
    sigma_max: float

    def __init__(self, network: nn.Module, *, label_dim: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = network
        self.label_dim = label_dim
        self.compute_dtype = compute_dtype

    @abstractmethod
    def scalings(self, sigma: Tensor) -> Scalings:
        """sigma: [B] float32."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the network knows: σ itself, for all of the continuous ones here."""
        return sigma

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """D(x; σ): [B, …].

        x: [B, …], data + σ ε; sigma: [B] or [1], positive; condition: int64 [B], one-hot [B, L] or None.
        """
        x, sigma = x.float(), sigma.float().reshape(-1)
        by = self.scalings(sigma)
        column = (-1,) + (1,) * (x.ndim - 1)
        low = self.compute_dtype != torch.float32
        with torch.autocast(x.device.type, dtype=self.compute_dtype if low else None, enabled=low):
            out: Tensor = self.model(by.inside.view(column) * x, by.noise, self._labels(condition, x))
        return by.skip.view(column) * x + by.out.view(column) * out.float()

    def _labels(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        return one_hot(condition, self.label_dim, device=x.device)


class EDMPrecond(Preconditioning):
    """Karras et al. 2022, Table 1, column 'Ours (EDM)'."""

    def __init__(
        self,
        network: nn.Module,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        label_dim: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, label_dim=label_dim, compute_dtype=compute_dtype)
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max

    def scalings(self, sigma: Tensor) -> Scalings:
        total = sigma.square() + self.sigma_data**2
        return Scalings(
            skip=self.sigma_data**2 / total,
            out=sigma * self.sigma_data / total.sqrt(),
            inside=1 / total.sqrt(),
            noise=sigma.log() / 4,
        )


class VPPrecond(Preconditioning):
    """Karras et al. 2022, Table 1, column 'VP': a DDPM++ of Song et al. 2021 with linear β, as a denoiser."""

    def __init__(
        self,
        network: nn.Module,
        *,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        steps: int = 1000,
        epsilon_t: float = 1e-5,
        label_dim: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, label_dim=label_dim, compute_dtype=compute_dtype)
        self.beta_d, self.beta_min, self.steps = beta_d, beta_min, steps
        self.sigma_min, self.sigma_max = self.sigma(epsilon_t), self.sigma(1.0)

    def sigma(self, t: float) -> float:
        """σ(t) = √(exp(½ β_d t² + β_min t) − 1)."""
        return math.sqrt(math.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t))

    def time(self, sigma: Tensor) -> Tensor:
        """t(σ), the inverse of σ(t)."""
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma.square()).log()).sqrt() - self.beta_min) / self.beta_d

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(
            skip=torch.ones_like(sigma),
            out=-sigma,
            inside=1 / (sigma.square() + 1).sqrt(),
            noise=(self.steps - 1) * self.time(sigma),
        )


class VEPrecond(Preconditioning):
    """Karras et al. 2022, Table 1, column 'VE': an NCSN++ of Song et al. 2021, as a denoiser."""

    def __init__(
        self,
        network: nn.Module,
        *,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        label_dim: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, label_dim=label_dim, compute_dtype=compute_dtype)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def scalings(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(skip=one, out=sigma, inside=one, noise=(sigma / 2).log())


class ConsistencyPrecond(Preconditioning):
    """Song et al. 2023, App. C ('boundary': D(x; σ_min) = x) or EDM's factors ('standard').

    `label_dim` is the number of classes; labels reach the network as ids, int64 [B], −1 or None for no label.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        kind: Literal["boundary", "standard"] = "boundary",
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        label_dim: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, label_dim=label_dim, compute_dtype=compute_dtype)
        assert kind in ("boundary", "standard"), kind
        self.kind, self.sigma_data, self.sigma_min, self.sigma_max = kind, sigma_data, sigma_min, sigma_max

    def scalings(self, sigma: Tensor) -> Scalings:
        variance = self.sigma_data**2
        total = sigma.square() + variance
        # Only two places take the distance from σ_min; c_out's root keeps σ, as the weights were trained.
        distance = sigma - self.sigma_min if self.kind == "boundary" else sigma
        return Scalings(
            skip=variance / (distance.square() + variance),
            out=distance * self.sigma_data / total.sqrt(),
            inside=1 / total.sqrt(),
            noise=250 * (sigma + 1e-44).log(),
        )

    def _labels(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        assert self.label_dim or condition is None, "labels were given to an unconditional network"
        return None if condition is None else condition.to(x.device)
