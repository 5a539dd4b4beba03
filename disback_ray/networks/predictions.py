"""ε-, v- and x_0-predictions of VP networks as denoisers D(x, σ, condition) in the VE convention: the one place where they are converted.

A VP network F sees x_vp = α_t x_0 + σ_t ε, α_t² + σ_t² = 1, and the time t. With σ = σ_t / α_t and x = x_vp / α_t = x_0 + σ ε:

    α_t = 1 / √(1 + σ²)        σ_t = σ / √(1 + σ²)        x_vp = x / √(1 + σ²)

    F = ε    x_0 = (x_vp - σ_t F) / α_t    D = x - σ F                         score -F / σ_t             (Eq. 18)
    F = v    x_0 = α_t x_vp - σ_t F        D = x / (1 + σ²) - σ F / √(1 + σ²)  score -(α_t F + σ_t x_vp) / σ_t   (Eq. 19)
    F = x_0  x_0 = F                       D = F                               score (α_t F - x_vp) / σ_t²       (Eq. 20)

These are scores by x_vp; that by x is α_t times as large, and is (D - x) / σ² for all three.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.networks.preconditioning import Preconditioning, Scalings

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What a network was trained to give, by diffusers' names: ε, v = α_t ε - σ_t x_0 (Salimans and Ho 2022), or x_0."""


def scalings_of(prediction: Prediction, sigma: Tensor, time: Tensor) -> Scalings:
    """D = skip · x + out · F(inside · x, time), in the precision of sigma. sigma: [B], positive."""
    total = 1 + sigma.square()
    inside = total.rsqrt()
    if prediction == "epsilon":
        skip, out = torch.ones_like(sigma), -sigma
    elif prediction == "v_prediction":
        skip, out = 1 / total, -sigma * inside
    else:
        assert prediction == "sample", prediction
        skip, out = torch.zeros_like(sigma), torch.ones_like(sigma)
    return Scalings(skip=skip, out=out, inside=inside, noise=time)


def own_sigma_data(prediction: Prediction) -> float | None:
    """The σ_data with which λ_D = 1/σ² + 1/σ_data² is the weight that the prediction is trained with; None: of no second term.

    ‖ε - F‖² = ‖D - x_0‖² / σ², and ‖v - F‖² = ‖D - x_0‖² (1 + 1/σ²). For x_0 diffusers' trainer takes the weight α_t²/σ_t² = 1/σ².
    """
    return 1.0 if prediction == "v_prediction" else None


class VPTablePrecond(Preconditioning):
    """A network that knows the times of a VP schedule, as a denoiser. F(x_vp, t, condition) → ε, v or x_0: [B, …].

    Beyond the schedule's σ the time is its end's, and the network is asked what it was never trained for: noise laws have to keep
    to sigma_min … sigma_max. ddim: how its owners draw from it. whole_times: for networks that have an entry for each time, instead
    of an embedding that is smooth.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: VPSchedule,
        prediction: Prediction,
        ddim: DDIMSettings | None = None,
        whole_times: bool = False,
        label_dim: int = 0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, label_dim=label_dim, compute_dtype=compute_dtype)
        self.schedule, self.prediction, self.whole_times = schedule, prediction, whole_times
        self.ddim = ddim or DDIMSettings()
        self.sigma_min, self.sigma_max = schedule.sigma_min, schedule.sigma_max

    def scalings(self, sigma: Tensor) -> Scalings:
        time = self.schedule.time(sigma)
        return scalings_of(self.prediction, sigma, time.round().long() if self.whole_times else time.float())

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.schedule.round_sigma(sigma)

    def _labels(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        assert self.label_dim or condition is None, "labels were given to an unconditional network"
        return None if condition is None else condition.to(x.device)
