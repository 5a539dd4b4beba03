"""ε-, v- and x_0-predictions as denoisers: float64 round trips, and the scores of Eqs. (18)–(20) in both conventions."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from disback_ray.algorithms.losses import denoising_loss, score
from disback_ray.algorithms.noise import per_sample
from disback_ray.algorithms.vp_schedule import VPSchedule
from disback_ray.networks.predictions import Prediction, VPTablePrecond, own_sigma_data, scalings_of

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
SCHEDULE = VPSchedule()
TIMES = torch.tensor([0, 1, 250, 700, 999])
ALPHA, SIGMA = (per_sample(v.sqrt(), torch.empty(5, 2, 3)) for v in (lambda a: (a, 1 - a))(SCHEDULE.alphas_cumprod[TIMES]))
VE = SCHEDULE.sigmas[TIMES]


def draw(seed: int) -> Tensor:
    return torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def answer(prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
    """What a perfect network gives; v as Salimans and Ho 2022 define it."""
    return {"epsilon": noise, "v_prediction": ALPHA * noise - SIGMA * x0, "sample": x0}[prediction]


def denoised(prediction: Prediction, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    by = scalings_of(prediction, VE, TIMES)
    return per_sample(by.skip, x) * x + per_sample(by.out, x) * output, per_sample(by.inside, x) * x


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_answer_gives_x0_back_in_float64(prediction: Prediction) -> None:
    x0, noise = draw(0), draw(1)
    x_vp = ALPHA * x0 + SIGMA * noise
    back, inside = denoised(prediction, x_vp / ALPHA, answer(prediction, x0, noise))
    torch.testing.assert_close(inside, x_vp, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-10)


# Eqs. (18)–(20): the score by x_vp, of what a network of each kind answers.
SCORES: dict[Prediction, Callable[[Tensor, Tensor], Tensor]] = {
    "epsilon": lambda f, x_vp: -f / SIGMA,
    "v_prediction": lambda f, x_vp: -(ALPHA * f + SIGMA * x_vp) / SIGMA,
    "sample": lambda f, x_vp: (ALPHA * f - x_vp) / SIGMA**2,
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_score_is_the_paper_s_for_any_answer(prediction: Prediction) -> None:
    x_vp, output = draw(2), draw(3)
    x = x_vp / ALPHA
    ours = score(denoised(prediction, x, output)[0], x, VE)
    torch.testing.assert_close(ours, ALPHA * SCORES[prediction](output, x_vp), rtol=1e-9, atol=1e-9)


class Known(nn.Module):
    """Answers with a fixed tensor, and notes what it is asked."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        self.asked = x, time, labels
        return self.output


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_denoiser_gives_what_diffusers_calls_the_predicted_original_sample(prediction: Prediction) -> None:
    x_vp, output = draw(4).float(), draw(5).float()
    network = Known(output)
    denoiser = VPTablePrecond(network, schedule=SCHEDULE, prediction=prediction)
    ours = denoiser(x_vp / ALPHA.float(), VE)
    theirs = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    theirs.set_timesteps(1000)
    for index, time in enumerate(TIMES):
        expected = theirs.step(output[index], int(time), x_vp[index]).pred_original_sample
        torch.testing.assert_close(ours[index], expected, rtol=1e-4, atol=1e-4)
    inside, times, labels = network.asked
    torch.testing.assert_close(inside, x_vp, rtol=1e-5, atol=1e-5)
    assert torch.equal(times, TIMES.float())
    assert labels is None


def test_times_are_whole_where_the_network_needs_it() -> None:
    network = Known(torch.zeros(2, 1))
    sigma = SCHEDULE.sigma(torch.tensor([3.2, 998.7]))
    VPTablePrecond(network, schedule=SCHEDULE, prediction="epsilon", whole_times=True)(torch.zeros(2, 1), sigma)
    assert network.asked[1].tolist() == [3, 999]
    assert not network.asked[1].is_floating_point()
    VPTablePrecond(network, schedule=SCHEDULE, prediction="epsilon")(torch.zeros(2, 1), sigma)
    assert network.asked[1].tolist() == pytest.approx([3.2, 998.7], abs=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_weight_is_that_of_the_prediction_s_own_loss(prediction: Prediction) -> None:
    """‖answer - F‖², and for x_0 the same times α_t² / σ_t²."""
    x0, noise, output = draw(6), draw(7), draw(8)
    guess, _ = denoised(prediction, (ALPHA * x0 + SIGMA * noise) / ALPHA, output)
    own = (output - answer(prediction, x0, noise)).square().flatten(1).mean(1)
    if prediction == "sample":
        own = own / VE**2
    ours = denoising_loss(guess, x0, VE, sigma_data=own_sigma_data(prediction))
    torch.testing.assert_close(ours, own, rtol=1e-7, atol=0)
