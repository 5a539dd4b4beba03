"""What the recipes draw: mixtures against their definitions, and real digits with their own classes."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.config import load_recipe
from disback_ray.data.digits import load_digits
from disback_ray.data.prepared import DataSpec
from disback_ray.data.sources import DigitsData, GridData, RingData

WHOLE = Batch(seed=1, stage="teacher", step=2, first=0, size=6000)
MIXTURES = [RingData(), RingData(modes=5, radius=1.0, std=0.02), GridData(), GridData(side=2, spacing=3.0, std=0.3)]


def test_the_ring() -> None:
    centres = RingData(modes=8, radius=2.0).centres
    assert (centres.shape, centres.dtype) == ((8, 2), torch.float64)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((8,), 2.0, dtype=torch.float64))
    chord = 2 * 2.0 * math.sin(math.pi / 8)
    neighbours = (centres - centres.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), chord, dtype=torch.float64))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_the_grid(side: int) -> None:
    centres = GridData(side=side, spacing=1.5).centres
    line = [1.5 * (i - (side - 1) / 2) for i in range(side)]
    assert sorted(map(tuple, centres.tolist())) == sorted((x, y) for x in line for y in line)
    assert centres.mean(0).tolist() == [0, 0]


@pytest.mark.parametrize("data", MIXTURES, ids=repr)
def test_a_mixture_s_points(data: RingData | GridData) -> None:
    """Equal shares for the modes, and around each a Gaussian of the same width both ways."""
    drawn = data.draw(WHOLE)
    assert (drawn.x.shape, drawn.x.dtype, drawn.condition) == ((6000, 2), torch.float32, None)
    nearest = torch.cdist(drawn.x.double(), data.centres).argmin(1)
    assert scipy.stats.chisquare(nearest.bincount(minlength=len(data.centres))).pvalue > 1e-3
    offset = (drawn.x - data.centres[nearest]) / data.std
    assert scipy.stats.kstest(offset.flatten(), "norm").pvalue > 1e-3
    assert (data.shape, data.classes) == ((2,), 0)


@pytest.mark.parametrize("name", ["ring8", "grid25"])
def test_sigma_data_is_the_points_own(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.draw(WHOLE).x.std().item() == pytest.approx(recipe.teacher.sigma_data, rel=0.02)


@pytest.mark.parametrize("conditional", [True, False])
def test_digits_are_real_ones_with_their_classes(conditional: bool) -> None:
    data, real = DigitsData(conditional=conditional), load_digits()
    drawn = data.draw(replace(WHOLE, size=500))
    assert (drawn.x.shape[1:], data.classes) == (data.shape, 10 if conditional else 0)
    gaps = torch.cdist(drawn.x.flatten(1), real.images.flatten(1))
    assert gaps.min(1).values.max() < 1e-2
    if conditional:
        assert drawn.condition is not None
        assert torch.equal(drawn.condition, real.labels[gaps.argmin(1)])
    else:
        assert drawn.condition is None


@pytest.mark.parametrize("data", [DigitsData(), RingData(), GridData()], ids=lambda data: data.kind)
def test_draws_are_keyed(data: DataSpec) -> None:
    batch = replace(WHOLE, size=96)
    whole, parts = data.draw(batch), [data.draw(part) for part in micro_batches(batch, 4)]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    if whole.condition is not None:
        assert torch.equal(torch.cat([part.condition for part in parts if part.condition is not None]), whole.condition)
    assert not torch.equal(data.draw(replace(batch, step=3)).x, whole.x)
