"""Moments in parts, the kernel distance, precision and recall: against the whole at once, clean-fid, and brute force."""

import numpy as np
import pytest

from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.kernel_distance import kernel_distance
from disback_ray.evaluation.moments import Moments
from disback_ray.evaluation.precision_recall import precision_recall
from disback_ray.torchvision_shim import declare_missing_operators


def test_moments_in_parts_are_those_of_the_whole() -> None:
    """A mean of 1e6 beside a spread of 1, where the sum of squares would keep no digit; one part is a single sample."""
    features = np.random.default_rng(0).normal(size=(1000, 5)) @ np.diag([1, 2, 3, 0, 1e-3]) + 1e6
    moments = Moments()
    for part in np.split(features, [1, 2, 300, 300, 999]):
        moments.add(part)
    found = moments.gaussian()
    assert found.samples == 1000
    assert np.allclose(found.mean, features.mean(0), rtol=1e-14)
    assert np.allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-9)


def test_moments_refuse_what_they_can_t_use() -> None:
    moments = Moments()
    moments.add(np.ones((3, 4)))
    with pytest.raises(ConfigError, match=r"3 samples for 4 features: .* at least 5"):
        moments.gaussian()
    with pytest.raises(ConfigError, match="features of 5 dimensions came after 4"):
        moments.add(np.ones((3, 5)))
    with pytest.raises(NonFiniteError, match="1 of 2 samples"):
        moments.add(np.array([[1.0, 2, 3, 4], [1, 2, np.inf, 4]]))
    assert moments.count == 3


def test_kernel_distance_is_clean_fid_s() -> None:
    """On whole sets, where no subset is drawn at random."""
    declare_missing_operators()
    from cleanfid.fid import kernel_distance as theirs

    a, b = np.random.default_rng(1).normal(size=(2, 60, 8)) + np.array([0, 0.5])[:, None, None]
    expected = theirs(a, b, num_subsets=1, max_subset_size=60)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(a, b) > 0.1


def test_kernel_distance_is_unbiased_and_its_subsets_are_keyed() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 2000, 6))
    state = np.random.get_state()[1]
    near = kernel_distance(a, b, size=200)
    assert abs(near) < 0.01  # a biased estimate of 200 samples would be at 2 (k(x, x) - k(x, y)) / 200 = .07
    assert near == kernel_distance(a, b, size=200)
    assert near != kernel_distance(a, b, size=200, seed=1)
    assert np.array_equal(state, np.random.get_state()[1]), "the global stream was left alone"
    assert kernel_distance(a, b + 0.5, size=200) > 0.1
    with pytest.raises(ConfigError, match="at least 2"):
        kernel_distance(a[:1], b)
    with pytest.raises(ConfigError, match="6 and 5 dimensions"):
        kernel_distance(a, b[:, :5])


def by_brute_force(made: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    def share(samples: np.ndarray, manifold: np.ndarray) -> float:
        radius = [sorted(np.linalg.norm(manifold - x, axis=1))[k] for x in manifold]
        return float(np.mean([any(np.linalg.norm(manifold - x, axis=1) <= radius) for x in samples]))

    return share(made, real), share(real, made)


def test_precision_and_recall_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disback_ray.evaluation.precision_recall.ROWS", 7)
    random = np.random.default_rng(3)
    made, real = random.normal(size=(40, 3)), 1.2 * random.normal(size=(30, 3)) + 1
    found = precision_recall(made, real)
    assert (found.precision, found.recall) == pytest.approx(by_brute_force(made, real, 3))
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_precision_and_recall_tell_collapse_from_spread() -> None:
    """Two clusters of real samples: one alone is precise and half recalled; spread over both and beyond is the reverse."""
    random = np.random.default_rng(4)
    real = np.concatenate([random.normal(size=(100, 2)), random.normal(size=(100, 2)) + 20])
    collapsed = precision_recall(random.normal(size=(200, 2)), real)
    assert collapsed.precision > 0.9
    assert 0.4 < collapsed.recall < 0.55
    spread = precision_recall(random.uniform(-40, 60, size=(200, 2)), real)
    assert spread.precision < 0.1
    assert spread.recall > 0.9
    with pytest.raises(ConfigError, match="more than 3"):
        precision_recall(real[:3], real)
