"""The stable target field against exact scores, and the mismatch degree against what it should be."""

import pytest
import torch

from disback_ray.algorithms.losses import score
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Drawn, Probe
from disback_ray.data.sources import GridData, RingData
from disback_ray.evaluation import mismatch as module
from disback_ray.evaluation.looks import SIGMAS, Looks, bands, spread
from disback_ray.evaluation.mismatch import measure_mismatch, mismatch_degree, probe_of, stable_target_score
from disback_ray.teachers.mixture import ExactMixture

RING = RingData()
EXACT = ExactMixture(RING.centres, std=RING.std)


GRID, WIDE = GridData(std=0.1), GridData(side=1, std=0.5)


def exact(probe: Probe) -> torch.Tensor:
    return score(EXACT(probe.x_t, probe.sigma), probe.x_t, probe.sigma)


def draws(n: int, step: int = 0, data: RingData | GridData = RING) -> torch.Tensor:
    return data.draw(Batch(0, "test", step, 0, n)).x


@pytest.mark.parametrize(("sigma", "bound"), [(0.1, 0.12), (0.2, 0.05), (0.5, 0.05), (1.0, 0.05), (2.0, 0.05), (10.0, 0.05)])
@pytest.mark.parametrize("held_out", [False, True])
def test_the_field_is_the_mixture_s_score(sigma: float, bound: float, held_out: bool) -> None:
    """4,096 references, Eqs. (13)–(17): relative error at noisy samples of the references, and of other draws."""
    references = draws(4096)
    probe = probe_of(draws(4096, 1) if held_out else references, None, sigmas=[sigma], seed=0, most=1024)
    truth = exact(probe).double()
    error = stable_target_score(probe.x_t, probe.sigma, references) - truth
    assert float(error.norm() / truth.norm()) <= bound


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GRID, {0.1: (0.12, 0.16), 0.2: (0.05, 0.09), 0.5: (0.05, 0.09), 1.0: (0.0, 0.05), 2.0: (0.0, 0.05)}),
        (WIDE, {0.1: (0.4, 1.0), 0.2: (0.1, 0.4), 0.5: (0.0, 0.05), 1.0: (0.0, 0.05), 2.0: (0.0, 0.05)}),
    ],
)
def test_where_few_samples_lie_within_sigma_the_field_is_their_own(
    data: GridData, expected: dict[float, tuple[float, float]]
) -> None:
    """The table of docs/measuring.md: what holds for ring8 doesn't for wider data."""
    references = draws(4096, data=data)
    probe = probe_of(references, None, sigmas=list(expected), seed=0, most=512)
    truth = score(ExactMixture(data.centres, std=data.std)(probe.x_t, probe.sigma), probe.x_t, probe.sigma).double()
    error = stable_target_score(probe.x_t, probe.sigma, references) - truth
    found = [part.norm() for part in error.chunk(len(expected))]
    for (sigma, (least, most)), wrong, right in zip(expected.items(), found, truth.chunk(len(expected)), strict=True):
        assert least <= float(wrong / right.norm()) <= most, sigma


def test_by_hand_in_parts_and_where_plain_softmax_underflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """σ = .001: all of exp(−d² / 2σ²) are 0 in float64; the nearest reference has all the weight."""
    monkeypatch.setattr(module, "ROWS", 3)
    monkeypatch.setattr(module, "COLUMNS", 2)
    random = torch.Generator().manual_seed(0)
    references = torch.randn(7, 1, 2, 2, generator=random, dtype=torch.float64)
    x = torch.randn(5, 1, 2, 2, generator=random, dtype=torch.float64)
    sigma = torch.tensor([1e-3, 0.3, 1.0, 4.0, 100.0])
    found = stable_target_score(x, sigma, references)
    for i in range(5):
        logits = -(x[i] - references).square().flatten(1).sum(1) / (2 * sigma[i].double() ** 2)
        mean = (torch.softmax(logits, 0)[:, None] * references.flatten(1)).sum(0).reshape(1, 2, 2)
        assert torch.allclose(found[i], (mean - x[i]) / sigma[i].double() ** 2, rtol=1e-9)
    nearest = (x[0] - references).square().flatten(1).sum(1).argmin()
    assert torch.allclose(found[0], (references[nearest] - x[0]) / sigma[0].double() ** 2)


def test_only_references_of_the_same_class_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS", 2)
    references, x = draws(12), draws(6, 1)
    classes, own = torch.arange(12) % 3, torch.arange(6) % 3
    sigma = torch.full((6,), 0.7)
    found = stable_target_score(x, sigma, references, classes=(own, classes))
    for k in range(3):
        alone = stable_target_score(x[own == k], sigma[own == k], references[classes == k])
        assert torch.allclose(found[own == k], alone)


def test_the_degree_is_the_weighted_squared_distance() -> None:
    """A score that is wrong by a known vector: σ² times its squared norm more than the bound of the right one."""
    samples = draws(2048)
    probe = probe_of(samples, None, sigmas=[0.5, 2.0], seed=0, most=256)
    truth = stable_target_score(probe.x_t, probe.sigma, samples)
    values = mismatch_degree(truth + torch.tensor([0.3, -0.4]), probe, samples)
    assert torch.allclose(values, 0.25 * probe.sigma.double() ** 2)
    assert torch.allclose(
        mismatch_degree(truth + torch.tensor([0.3, -0.4]), probe, samples, weighted=False), torch.tensor(0.25).double()
    )
    assert probe.sigma.tolist() == [0.5] * 256 + [2.0] * 256


def test_real_data_are_at_the_bound_others_above_and_dropped_modes_are_hardly_seen() -> None:
    levels = (0.2, 0.5, 1.0)
    bound = measure_mismatch(exact, draws(4096), None, sigmas=levels)
    assert 0 < bound.degree < 0.02
    moved = measure_mismatch(exact, draws(4096) + 0.3, None, sigmas=levels)
    assert moved.degree > 20 * bound.degree
    real = draws(8192)
    upper = real[real[:, 1] > 0][:2048]  # half of the ring
    assert bound.degree < measure_mismatch(exact, upper, None, sigmas=levels).degree < moved.degree
    assert list(bound.by_sigma) == list(levels)


def test_noise_is_the_same_at_each_look_and_the_gap_is_zero_for_equal_scores() -> None:
    looks = Looks((0.2, 1.0), seed=3)
    first, second = (looks.probe(Drawn(draws(300, step), None)) for step in (0, 1))
    noise = [(p.x_t - torch.cat([draws(300, i)[:256]] * 2)) / p.sigma[:, None] for i, p in enumerate((first, second))]
    assert torch.allclose(noise[0], noise[1], atol=1e-4)
    drawn = Drawn(draws(300), None)
    teacher = exact(first)
    shift = torch.tensor([0.6, 0.8])
    found = looks.numbers(drawn, first, teacher, teacher + shift)
    assert found["gap_0.2"] == pytest.approx(0.2 * 0.5**0.5, rel=1e-5)
    assert found["gap_1"] == pytest.approx(0.5**0.5, rel=1e-5)
    assert found["fake_mismatch"] > found["mismatch"]
    assert looks.numbers(drawn, first, teacher, teacher)["gap_1"] == 0
    few = Drawn(draws(20), None)
    probe = looks.probe(few)
    assert set(looks.numbers(few, probe, exact(probe), exact(probe))) == {"gap_0.2", "gap_1", "spread"}


def test_spread_is_between_samples_of_one_class() -> None:
    x = torch.tensor([[0.0, 0], [2, 0], [10, 0], [10, 2]])
    assert spread(Drawn(x, torch.tensor([0, 0, 1, 1]))) == pytest.approx(2 / 2**0.5)
    assert spread(Drawn(x, None)) > 4
    assert spread(Drawn(x, torch.arange(4))) == spread(Drawn(x, None)), "no two of a class: all count"
    assert spread(Drawn(x[:1], None)) == 0


def test_bands_are_those_that_the_law_draws() -> None:
    from disback_ray.algorithms.noise import KarrasNoise

    assert bands(KarrasNoise(0.02, 2.0, low=0, high=1)) == (0.2, 0.5, 1.0)
    assert bands(KarrasNoise()) == SIGMAS
    assert len(bands(KarrasNoise(0.01, 0.1))) == 1
