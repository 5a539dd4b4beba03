"""Keyed randomness: the same numbers wherever and however they are drawn; and the laws against scipy's quantiles."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from disback_ray.algorithms.noise import (
    BLOCK,
    Batch,
    KarrasNoise,
    LogNormalNoise,
    NoiseLaw,
    TimestepNoise,
    add_noise,
    micro_batches,
    per_sample,
    span,
)
from disback_ray.algorithms.vp_schedule import VPSchedule

WHOLE = Batch(seed=3, stage="backtracking", step=5, first=0, size=4 * BLOCK - 16)
DRAWS: dict[str, Callable[[Batch], Tensor]] = {
    "normal": lambda batch: batch.normal("tag", (2, 3)),
    "uniform": lambda batch: batch.uniform("tag"),
    "integers": lambda batch: batch.integers("tag", 10),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


@every_draw
@pytest.mark.parametrize("parts", [2, 3, 5, 8, 240])
def test_micro_batches_draw_what_the_whole_batch_draws(draw: Callable[[Batch], Tensor], parts: int) -> None:
    """240 samples lie on four blocks; the parts begin and end within them, on their borders, and across them."""
    assert torch.equal(torch.cat([draw(batch) for batch in micro_batches(WHOLE, parts)]), draw(WHOLE))


@every_draw
@pytest.mark.parametrize(("first", "size"), [(0, 1), (BLOCK - 1, 2), (BLOCK, BLOCK), (BLOCK + 7, 2 * BLOCK), (200, 40)])
def test_a_sample_s_numbers_depend_on_nothing_around_it(draw: Callable[[Batch], Tensor], first: int, size: int) -> None:
    assert torch.equal(draw(replace(WHOLE, first=first, size=size)), draw(WHOLE)[first : first + size])


def test_micro_batches_cut_into_equal_parts_only() -> None:
    parts = micro_batches(replace(WHOLE, first=8, size=12), 3)
    assert [(part.first, part.size) for part in parts] == [(8, 4), (12, 4), (16, 4)]
    assert {replace(part, first=8, size=12) for part in parts} == {replace(WHOLE, first=8, size=12)}
    with pytest.raises(AssertionError):
        micro_batches(WHOLE, 7)


@every_draw
def test_order_and_the_global_generators_play_no_part(draw: Callable[[Batch], Tensor]) -> None:
    torch.manual_seed(0)
    before = draw(WHOLE), torch.get_rng_state()
    torch.rand(3)
    for step in (9, 1):
        draw(replace(WHOLE, step=step))
    assert torch.equal(draw(WHOLE), before[0])
    torch.manual_seed(0)
    draw(WHOLE)
    assert torch.equal(torch.get_rng_state(), before[1])


def test_another_process_draws_the_same() -> None:
    draws = "[b.normal('t', (2, 3)).double().sum().item(), b.uniform('t').sum().item(), b.integers('t', 99).sum().item()]"
    program = f"from disback_ray.algorithms.noise import Batch; b = {WHOLE!r}; print({draws})"
    environment = os.environ | {"PYTHONHASHSEED": "77"}  # Python's own hash() of the key would differ
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout
    assert eval(said) == eval(draws, {"b": WHOLE})


OTHERS = [{"seed": 4}, {"seed": -3}, {"stage": "recording"}, {"step": 6}, {"seed": 5, "step": 3}, {"first": BLOCK}]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_each_part_of_the_key_changes_what_is_drawn(change: dict[str, Any]) -> None:
    """Unequal, and unrelated: the correlation stays within four of its standard deviations."""
    other = replace(WHOLE, **change)
    ours, theirs = WHOLE.normal("tag", (6,)), other.normal("tag", (6,))
    pairs = min(len(ours), len(theirs))
    assert abs(np.corrcoef(ours[:pairs].flatten(), theirs[:pairs].flatten())[0, 1]) < 4 / (6 * pairs) ** 0.5
    assert not torch.equal(WHOLE.uniform("tag"), other.uniform("tag"))


def test_tags_are_unrelated_and_so_are_samples() -> None:
    numbers = torch.stack([WHOLE.normal(tag, (6,)) for tag in ("z", "score/noise", "fit/0/noise", "fit/1/noise")])
    rows = numbers.reshape(4, -1)
    among_tags = np.corrcoef(rows) - np.eye(4)
    among_samples = np.corrcoef(numbers[0, :-1].flatten(), numbers[0, 1:].flatten())[0, 1]
    assert np.abs([*among_tags.flatten(), among_samples]).max() < 4 / rows.shape[1] ** 0.5


def test_the_numbers_follow_their_distributions() -> None:
    many = replace(WHOLE, size=4096)
    normal, uniform, integers = many.normal("a", (2,)), many.uniform("b"), many.integers("c", 10)
    assert (normal.dtype, normal.shape) == (torch.float32, (4096, 2))
    assert (uniform.dtype, integers.dtype) == (torch.float64, torch.int64)
    assert scipy.stats.kstest(normal.flatten(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert scipy.stats.chisquare(integers.bincount(minlength=10)).pvalue > 1e-3


# -- the laws of σ --


def test_karras_levels() -> None:
    """Karras et al. 2022, Eq. (5): σ_i = (σ_max^(1/ρ) + i/(N-1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ for i = 0 … N-1."""
    i, last, least, most, rho = np.arange(1000), 999, 0.002, 80.0, 7.0
    levels = (most ** (1 / rho) + i / last * (least ** (1 / rho) - most ** (1 / rho))) ** rho
    law = KarrasNoise(sigma_min=least, sigma_max=most, rho=rho, low=0.0, high=1.0)
    np.testing.assert_allclose(law.sigma(torch.from_numpy(1 - i / last)), levels, rtol=1e-12)
    ends = KarrasNoise(least, most, rho, low=0.02, high=0.98).sigma(torch.tensor([0.0, 1.0]))
    np.testing.assert_allclose(ends, law.sigma(torch.tensor([0.02, 0.98], dtype=torch.float64)), rtol=1e-9)
    assert KarrasNoise() == KarrasNoise(0.002, 80.0, 7.0, 0.02, 0.98), "EDM's levels, as DMD2 cuts them"


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 2.0)])
def test_lognormal_quantiles(mean: float, std: float) -> None:
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    expected = scipy.stats.lognorm.ppf(u, s=std, scale=np.exp(mean))
    np.testing.assert_allclose(LogNormalNoise(mean, std).sigma(u), expected, rtol=1e-9)
    ends = LogNormalNoise(mean, std).sigma(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(ends).all()
    assert (ends > 0).all()


def test_times_of_a_schedule_are_drawn_evenly_and_are_whole() -> None:
    """Ho et al. 2020, Algorithm 1, with the levels of VE."""
    law = TimestepNoise(VPSchedule(steps=50), low=5, high=44)
    u = torch.arange(4000, dtype=torch.float64) / 4000
    times = law.schedule.time(law.sigma(u).float())
    assert torch.equal(times, times.round())
    assert torch.equal(times.long().bincount(minlength=50), torch.tensor([0] * 5 + [100] * 40 + [0] * 5))
    assert TimestepNoise().sigma(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.01, 157.407], rel=1e-3)


def test_the_span_of_a_law() -> None:
    assert span(LogNormalNoise()) == (0.0, math.inf)
    assert span(KarrasNoise(0.01, 10, low=0.0, high=1.0)) == pytest.approx((0.01, 10))
    assert span(TimestepNoise()) == pytest.approx((0.01, 157.407), rel=1e-3)


# -- x_t --


@pytest.mark.parametrize("law", [KarrasNoise(0.01, 10), LogNormalNoise(), TimestepNoise()])
def test_x_t_is_x0_and_sigma_epsilon(law: NoiseLaw) -> None:
    """VE: (x_t - x_0) / σ is standard normal, independent of σ, and σ follows the law."""
    batch = replace(WHOLE, size=1024)
    x0 = torch.full((1024, 1, 2, 2), 7.0, dtype=torch.float64)
    noisy = add_noise(x0, batch, law=law, tag="score")
    assert noisy.sigma.shape == (1024,)
    epsilon = (noisy.x_t - x0) / per_sample(noisy.sigma, x0)
    assert scipy.stats.kstest(epsilon.flatten(), "norm").pvalue > 1e-3
    assert scipy.stats.spearmanr(noisy.sigma, epsilon.abs().flatten(1).mean(1)).pvalue > 1e-3
    quantiles = law.sigma(torch.linspace(0, 1, 2001, dtype=torch.float64))
    assert scipy.stats.ks_2samp(noisy.sigma.log(), quantiles[1:-1].log()).pvalue > 1e-3


def test_both_scores_of_equation_8_get_the_same_x_t_and_another_tag_gets_another() -> None:
    batch, law = replace(WHOLE, size=8), KarrasNoise()
    x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    here, there, other = (add_noise(x0, batch, law=law, tag=tag) for tag in ("score", "score", "fit/0"))
    assert torch.equal(here.x_t, there.x_t)
    assert torch.equal(here.sigma, there.sigma)
    assert not (here.sigma == other.sigma).any()
    epsilons = [(noisy.x_t - x0) / noisy.sigma[:, None] for noisy in (here, other)]
    assert not torch.isclose(*epsilons, rtol=1e-3).any()
    halves = [add_noise(x, part, law=law, tag="score").x_t for x, part in zip(x0.split(4), micro_batches(batch, 2), strict=True)]
    assert torch.equal(torch.cat(halves), here.x_t)
