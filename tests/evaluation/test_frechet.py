"""The distance against closed forms, clean-fid's own, and another way to the same trace."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.frechet import frechet_between_halves, frechet_distance, frechet_of
from disback_ray.evaluation.moments import Gaussian
from disback_ray.torchvision_shim import declare_missing_operators


def by_singular_values(a: np.ndarray, b: np.ndarray) -> float:
    """tr (Σa Σb)^½ is the sum of the singular values of A'B / √(N M) for centred samples A, B: no root is taken at all."""
    white_a, white_b = (np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(len(x) - 1) for x in (a, b))
    cross = np.linalg.svd(white_a @ white_b.T, compute_uv=False).sum()
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * cross)


def by_clean_fid(a: np.ndarray, b: np.ndarray) -> float:
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls scipy's sqrtm with an argument that is deprecated
        from cleanfid.fid import fid_from_feats

        return float(fid_from_feats(a, b))


def with_moments(mean: np.ndarray, covariance: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Samples whose *empirical* mean and covariance are exactly these."""
    noise = np.random.default_rng(seed).normal(size=(samples, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_closed_form_where_covariances_commute() -> None:
    """|μa − μb|² + Σ (σa − σb)² for diagonal covariances."""
    random = np.random.default_rng(1)
    mean_a, mean_b = random.normal(size=(2, 12))
    std_a, std_b = random.uniform(0.2, 3, size=(2, 12))
    a = with_moments(mean_a, np.diag(std_a**2), 100, 2)
    b = with_moments(mean_b, np.diag(std_b**2), 77, 3)
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("rank", [3, 24])
def test_where_rank_is_short_and_units_are_silent(scale: float, rank: int) -> None:
    random = np.random.default_rng(4)
    a = scale * random.normal(size=(200, rank)) @ random.normal(size=(rank, 24))
    b = scale * np.maximum(random.normal(size=(150, 24)) + 0.3, 0)  # as a ReLU leaves them
    b[:, ::5] = 0
    assert frechet_distance(a, b) == pytest.approx(by_singular_values(a, b), rel=1e-10)


def test_a_rank_of_one_in_many_dimensions() -> None:
    """|u|² + |v|² - 2 |u·v| for u uᵀ and v vᵀ: what rounding leaves in the other 255 dimensions must not add up."""
    u, v = np.random.default_rng(6).normal(size=(2, 256))
    a, b = (Gaussian(np.zeros(256), np.outer(x, x), None) for x in (u, v))
    assert frechet_of(a, b) == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-12)


@pytest.mark.parametrize("dimensions", [2, 64, 256])
def test_clean_fid_s_own_distance(dimensions: int) -> None:
    """To 1e-6, on features whose means, spreads and correlations differ."""
    random = np.random.default_rng(dimensions)
    a = random.normal(size=(4 * dimensions, dimensions)) @ random.normal(size=(dimensions, dimensions)) / dimensions**0.5
    b = 1.5 * random.normal(size=(3 * dimensions, dimensions)) + random.normal(size=dimensions)
    assert frechet_distance(a, b) == pytest.approx(by_clean_fid(a, b), rel=1e-6)


def test_collapsed_samples_have_a_distance() -> None:
    """All samples alike: |μa − μb|² + tr Σb."""
    b = np.random.default_rng(5).normal(size=(100, 8))
    a = np.full((50, 8), 0.5)
    expected = ((b.mean(0) - 0.5) ** 2).sum() + b.var(0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == 0


def test_float32_features_are_reduced_in_float64() -> None:
    """A mean of 1e4 beside a spread of 1 leaves float32 no digits for the covariance."""
    random = np.random.default_rng(6)
    a = (random.normal(size=(400, 4)) + 1e4).astype(np.float32)
    b = (2 * random.normal(size=(400, 4)) + 1e4).astype(np.float32)
    exact = by_singular_values(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)


def test_halves_of_one_set_are_near_and_the_split_is_keyed() -> None:
    features = np.random.default_rng(7).normal(size=(2001, 6))
    features = features[np.argsort(features[:, 0])]  # an unshuffled split would be far apart
    near = frechet_between_halves(features)
    assert 0 < near < 0.05
    assert near == frechet_between_halves(features, seed=0)
    assert near != frechet_between_halves(features, seed=1)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    features = np.zeros((20, 3))
    features[:, 0] = np.arange(20)
    frechet_distance(features, features)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_too_few_samples_are_refused() -> None:
    features = np.random.default_rng(8).normal(size=(9, 8))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ConfigError, match=r"8 samples for 8 features.* at least 9"):
        frechet_distance(features, features[:8])


def test_other_shapes_are_refused() -> None:
    a = np.zeros((9, 2))
    with pytest.raises(ConfigError, match="same network"):
        frechet_distance(a, np.zeros((9, 3)))
    with pytest.raises(ConfigError, match=r"\[N, D\]"):
        frechet_distance(np.zeros(9), a)
    with pytest.raises(ConfigError, match=r"\[N, D\]"):
        frechet_distance(a[:, :1], a[:, :1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_refused(value: float) -> None:
    a = np.zeros((9, 2))
    b = a.copy()
    b[3] = value
    with pytest.raises(NonFiniteError, match="1 of 9"):
        frechet_distance(a, b)


def test_torchvision_imports_in_a_fresh_process() -> None:
    """Whether or not torchvision's library fits this torch, and again after a first call; nothing warns."""
    code = (
        "from disback_ray.torchvision_shim import declare_missing_operators as declare\n"
        "declare(); declare()\n"
        "import torchvision, torch\n"
        "assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
