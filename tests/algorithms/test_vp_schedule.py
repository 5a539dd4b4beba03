"""VP schedules as tables of σ: against diffusers' own tables and times."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from disback_ray.algorithms.sampling import ddim
from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule

DDPM = VPSchedule()
STABLE_DIFFUSION = VPSchedule(0.00085, 0.012, kind="scaled_linear")
COSINE = VPSchedule(kind="cosine")
SCHEDULES = [(DDPM, "linear"), (STABLE_DIFFUSION, "scaled_linear"), (COSINE, "squaredcos_cap_v2")]


@pytest.mark.parametrize(("schedule", "name"), SCHEDULES)
def test_the_table_is_diffusers(schedule: VPSchedule, name: str) -> None:
    """Theirs is in float32, so they agree to a few of its roundings."""
    theirs = DDPMScheduler(schedule.steps, schedule.beta_start, schedule.beta_end, name)
    torch.testing.assert_close(schedule.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=2e-5, atol=0)
    given = VPSchedule(steps=schedule.steps, betas=tuple(theirs.betas.tolist()))
    torch.testing.assert_close(given.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=2e-5, atol=0)


def test_published_values() -> None:
    """ᾱ_999 of DDPM on CIFAR-10, and ᾱ_399, ᾱ_999 of SDXL."""
    assert float(DDPM.alphas_cumprod[999]) == pytest.approx(4.04e-5, rel=2e-3)
    assert pytest.approx(157, rel=3e-3) == DDPM.sigma_max
    assert [round(float(a), 5) for a in STABLE_DIFFUSION.alphas_cumprod[[399, 999]]] == [0.42609, 0.00466]
    assert math.isclose(DDPM.sigma_min, math.sqrt(1e-4 / (1 - 1e-4)))


@pytest.mark.parametrize(("schedule", "name"), SCHEDULES)
def test_times_are_the_inverse_and_interpolated_as_diffusers_does(schedule: VPSchedule, name: str) -> None:
    whole = torch.arange(schedule.steps)
    assert torch.equal(schedule.time(schedule.sigma(whole).float()), whole.double()), "exact at the table, though σ is rounded"
    between = torch.linspace(0.3, schedule.steps - 1.3, 777, dtype=torch.float64)
    assert (schedule.time(schedule.sigma(between)) - between).abs().max() < 1e-3
    theirs = EulerDiscreteScheduler(schedule.steps, schedule.beta_start, schedule.beta_end, name)
    table = np.log(theirs.sigmas.numpy()[:-1][::-1].astype(np.float64))
    sigma = schedule.sigma(between)
    assert np.abs(theirs._sigma_to_t(sigma.numpy(), table) - schedule.time(sigma).numpy()).max() < 2e-3


def test_beyond_the_table_time_is_its_end_s() -> None:
    sigma = torch.tensor([1e-6, DDPM.sigma_min, DDPM.sigma_max, 1e6], dtype=torch.float64)
    assert DDPM.time(sigma).tolist() == [0, 0, 999, 999]
    assert DDPM.round_sigma(sigma).tolist() == pytest.approx([DDPM.sigma_min] * 2 + [DDPM.sigma_max] * 2)


def test_rounding_takes_the_time_that_is_nearest() -> None:
    sigma = DDPM.sigma(torch.tensor([400.4, 400.6, 17.0]))
    torch.testing.assert_close(DDPM.round_sigma(sigma), DDPM.sigmas[[400, 401, 17]])
    assert DDPM.round_sigma(sigma.float()).dtype == torch.float32


def test_the_table_does_not_depend_on_torch_s_default_device() -> None:
    with torch.device("meta"):
        assert VPSchedule(steps=7).alphas_cumprod.device.type == "cpu"


SPACINGS = [("leading", 0, True), ("leading", 1, False), ("trailing", 0, True), ("trailing", 0, False), ("linspace", 0, False)]


@pytest.mark.parametrize("steps", [1, 3, 10, 48, 103])
@pytest.mark.parametrize(("spacing", "offset", "to_zero"), SPACINGS)
def test_ddim_goes_as_diffusers_does(spacing: str, offset: int, to_zero: bool, steps: int) -> None:
    """The times that are visited, and where all of the steps lead with a network of which only the answer counts.

    Of so many steps that don't divide 1000 a step of diffusers' doesn't end at the next time. At 48 and 103 times fall on halves.
    """
    theirs = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", timestep_spacing=spacing, steps_offset=offset,
                           set_alpha_to_one=to_zero, clip_sample=False)  # fmt: skip
    theirs.set_timesteps(steps)
    ours = DDIMSettings(spacing, offset, to_zero)  # type: ignore[arg-type]
    times = theirs.timesteps[:steps]  # of 103 `trailing` ones there is one more, which is -1
    assert ours.times(steps, STABLE_DIFFUSION).tolist() == times.tolist()

    def denoise(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        return torch.sin(3 * x / (1 + sigma[:, None]))

    z = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(4, 2)
    x_vp = z
    for time in times:
        sigma = STABLE_DIFFUSION.sigmas[time].expand(4)
        x = x_vp * torch.hypot(sigma, torch.ones(4))[:, None]
        x_vp = theirs.step((x - denoise(x, sigma, None)) / sigma[:, None], int(time), x_vp).prev_sample
    sigmas, ends = ours.sigmas(steps, STABLE_DIFFUSION)
    start = math.sqrt(1 + float(sigmas[0]) ** 2)
    torch.testing.assert_close(ddim(denoise, z, sigmas=sigmas, ends=ends, start=start), x_vp, rtol=0, atol=1e-4)
