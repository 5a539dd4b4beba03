"""Distances between points against closed forms, brute force and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from disback_ray.algorithms.records import Drawn
from disback_ray.data.sources import RingData
from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.point_measures import PointMeasures
from disback_ray.evaluation.points import energy_distance, modes_covered, sliced_wasserstein


def normal(count: int, seed: int, std: float = 1.0) -> np.ndarray:
    return std * np.random.default_rng(seed).normal(size=(count, 2))


RING = np.array([[2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)] for k in range(8)])


class TestSlicedWasserstein:
    @pytest.mark.parametrize("projections", [2, 7, 256])
    def test_a_shift(self, projections: int) -> None:
        """W₂ of a shift d along a direction u is |d·u|; the mean of its square over directions is |d|²/2."""
        x = normal(301, 0)
        assert sliced_wasserstein(x, x + np.array([3, -4]), projections=projections) == pytest.approx(5 / math.sqrt(2), rel=1e-12)

    def test_equal_sizes_match_sorted_points(self) -> None:
        """Directions by hand: for equal sizes on a line the i-th smallest meets the i-th smallest."""
        x, y = normal(200, 1), normal(200, 2, std=2.0) + 1
        start = np.random.default_rng(9).uniform()
        squares = []
        for k in range(16):
            angle = (k + start) * math.pi / 16
            u = np.array([math.cos(angle), math.sin(angle)])
            squares.append(np.mean([(a - b) ** 2 for a, b in zip(sorted(x @ u), sorted(y @ u), strict=True)]))
        expected = math.sqrt(sum(squares) / 16)
        assert sliced_wasserstein(x, y, projections=16, seed=9) == pytest.approx(expected, rel=1e-12)

    def test_unequal_sizes_are_repeated_to_equal_ones(self) -> None:
        """Repeating every point leaves a distribution as it is: 4 points thrice and 6 points twice are two sets of 12."""
        x, y = normal(4, 3), normal(6, 4)
        expected = sliced_wasserstein(np.repeat(x, 3, axis=0), np.repeat(y, 2, axis=0))
        assert sliced_wasserstein(x, y) == pytest.approx(expected, rel=1e-12)
        assert sliced_wasserstein(y, x) == pytest.approx(expected, rel=1e-12)

    def test_gaussians_of_other_width(self) -> None:
        """Between N(0, s²I) and N(μ, r²I): √(|μ|²/2 + (s − r)²)."""
        x, y = normal(20_000, 5, std=0.5), normal(15_000, 6, std=1.5) + np.array([2, 0])
        assert sliced_wasserstein(x, y) == pytest.approx(math.sqrt(2 + 1), rel=0.02)

    def test_an_equal_set_in_another_order_is_at_zero(self) -> None:
        x = normal(100, 7)
        assert sliced_wasserstein(x, x[::-1]) == 0

    def test_tensors_and_arrays_alike_and_keyed_by_the_seed(self) -> None:
        x, y = normal(50, 8), normal(50, 9) ** 3
        tensors = torch.tensor(x, requires_grad=True), torch.tensor(y)
        assert sliced_wasserstein(*tensors) == sliced_wasserstein(x, y)
        few = [sliced_wasserstein(x, y, projections=2, seed=seed) for seed in (0, 0, 1)]
        assert few[0] == few[1] != few[2]

    def test_a_dropped_mode_shows(self) -> None:
        centres = RING[np.arange(4000) % 8]
        all_modes, seven = centres + normal(4000, 10, 0.1), RING[np.arange(4000) % 7] + normal(4000, 11, 0.1)
        assert sliced_wasserstein(all_modes, centres + normal(4000, 12, 0.1)) < 0.05 < sliced_wasserstein(seven, all_modes)


class TestEnergyDistance:
    def test_on_a_line_it_is_the_square_of_scipys(self) -> None:
        x, y = normal(1500, 0), normal(1100, 1) * 2 + 0.3
        x[:, 1] = y[:, 1] = 5
        assert energy_distance(x, y) == pytest.approx(scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-9)

    def test_two_points(self) -> None:
        assert energy_distance(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])) == 10

    def test_far_gaussians(self) -> None:
        """E|X−X'| in 2-D for unit Gaussians is √π; at distance d ≫ 1, E|X−Y| ≈ d + 1/d (X − Y has variance 2 across)."""
        x, y = normal(3000, 2), normal(3000, 3) + np.array([50, 0])
        assert energy_distance(x, y) == pytest.approx(2 * (50 + 1 / 50) - 2 * math.sqrt(math.pi), rel=0.003)

    def test_equal_sets(self) -> None:
        x = normal(2000, 4)
        assert energy_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)


class TestModes:
    def test_all_modes_evenly(self) -> None:
        found = modes_covered(RING[np.arange(8000) % 8] + normal(8000, 0, 0.1), RING, 0.1)
        assert (found.covered, found.total) == (8, 8)
        assert found.balance == pytest.approx(1, abs=1e-3)
        assert found.strays == pytest.approx(math.exp(-4.5), abs=0.005)  # a Gaussian's share beyond 3 std in 2-D

    def test_half_of_the_modes(self) -> None:
        found = modes_covered(RING[np.arange(800) % 4], RING, 0.1)
        assert found.covered == 4
        assert found.balance == pytest.approx(0.5)
        assert found.strays == 0

    @pytest.mark.parametrize(("held", "covered"), [(25, 2), (24, 1)])
    def test_a_mode_counts_from_a_quarter_of_its_due(self, held: int, covered: int) -> None:
        """200 points on 2 modes: 100 are due to each."""
        points = np.repeat(RING[:2], [200 - held, held], axis=0)
        assert modes_covered(points, RING[:2], 0.1).covered == covered
        assert modes_covered(points, RING[:2], 0.1, share=0.01).covered == 2

    def test_three_std_is_the_edge(self) -> None:
        points = np.array([[0.29, 0.0], [0.31, 0.0]])
        assert modes_covered(points, np.zeros((1, 2)), 0.1).strays == 0.5

    def test_where_circles_overlap_the_nearest_centre_has_the_point(self) -> None:
        centres = np.array([[0.0, 0.0], [0.4, 0.0]])
        found = modes_covered(np.array([[0.1, 0.0], [0.15, 0.0]]), centres, 0.2)
        assert (found.covered, found.balance, found.strays) == (1, 0.5, 0)

    def test_no_point_in_any_mode(self) -> None:
        found = modes_covered(np.full((10, 2), 50.0), RING, 0.1)
        assert (found.covered, found.balance, found.strays) == (0, 0, 1)


def test_other_shapes_and_values_are_refused() -> None:
    good = normal(4, 0)
    for bad in (np.zeros((4, 3)), np.zeros(4), np.zeros((0, 2))):
        with pytest.raises(ConfigError, match="x has shape"):
            sliced_wasserstein(bad, good)
    with pytest.raises(NonFiniteError, match="1 of 2 points of y"):
        energy_distance(good, torch.tensor([[0.0, math.nan], [1.0, 1.0]]))


def test_real_against_real_is_two_draws_of_the_data() -> None:
    """What other draws, made here by hand, are at too: not the same points against themselves, and not points of anything else."""
    data = RingData()
    measures = PointMeasures(data, samples=1000, seed=3)
    stream = np.random.default_rng(4)
    fresh = RING[stream.integers(8, size=1000)] + data.std * stream.normal(size=(1000, 2))
    told, again = measures.real_halves(), measures.measure(Drawn(torch.from_numpy(fresh), None))
    same = measures.measure(measures.real_data())
    assert told["modes"] == again["modes"] == 8
    assert told["in_modes"] == pytest.approx(again["in_modes"], abs=0.02)
    assert same["sliced_wasserstein"] < 1e-6
    for figures in (told, again):
        assert 0.01 < figures["sliced_wasserstein"] < 0.3
