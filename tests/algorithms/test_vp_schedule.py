"""VP schedules as tables of σ: against diffusers' own tables and times."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

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


@pytest.mark.parametrize("steps", [1, 10, 25, 500])
@pytest.mark.parametrize(("spacing", "offset", "to_zero"), [("leading", 0, True), ("leading", 1, False), ("trailing", 0, True)])
def test_ddim_visits_the_times_that_diffusers_does(spacing: str, offset: int, to_zero: bool, steps: int) -> None:
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=to_zero)
    theirs.set_timesteps(steps)
    ours = DDIMSettings(spacing, offset, to_zero)  # type: ignore[arg-type]
    assert ours.times(steps, DDPM).tolist() == theirs.timesteps.tolist()
    assert float(ours.sigmas(steps, DDPM)[-1]) == pytest.approx(math.sqrt(1 / float(theirs.final_alpha_cumprod) - 1), abs=1e-6)


def test_evenly_from_end_to_end() -> None:
    times = DDIMSettings("linspace").times(4, DDPM)
    assert times.tolist() == [999, 666, 333, 0]
