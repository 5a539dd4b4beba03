"""The Fréchet distance between two sets of features, computed by clean-fid."""

import contextlib
import io
import warnings

import numpy as np

from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.torchvision_shim import declare_missing_operators


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Fréchet distance between the Gaussians of two sets of features (Heusel et al. 2017, Eq. 6; clean-fid, Parmar et al. 2022).

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½); lower is closer, 0 for equal means and covariances.
    features_a, features_b: real [N, D] and [M, D], with N, M > D > 1: fewer samples can't fill a covariance, and their number
    would decide the distance.

    Raises ConfigError for too few samples or sizes that differ, NonFiniteError for NaN or Inf.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = _moments(features_a), _moments(features_b)
    if mean_a.shape != mean_b.shape:
        raise ConfigError(f"features to compare have {mean_a.size} and {mean_b.size} dimensions: take both from the same network")
    return _clean_fid(mean_a, covariance_a, mean_b, covariance_b)


def frechet_between_halves(features: np.ndarray, *, seed: int = 0) -> float:
    """Fréchet distance between two random halves of one set: what sampling alone makes of a distance of zero.

    features: real [N, D]. Raises what `frechet_distance` raises.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    half = len(features) // 2
    return frechet_distance(features[order[:half]], features[order[half:]])


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] < 2:
        raise ConfigError(f"features have shape {features.shape}: give one row per sample, [N, D] with D > 1")
    samples, dimensions = features.shape
    if samples < dimensions + 1:
        raise ConfigError(
            f"{samples} samples for {dimensions} features: the Fréchet distance needs at least {dimensions + 1}, evaluate more"
        )
    if not np.isfinite(features).all():
        rows = int((~np.isfinite(features)).any(axis=1).sum())
        raise NonFiniteError(
            f"features of {rows} of {samples} samples are NaN or Inf: look at the samples, the generator may have diverged"
        )
    return features.mean(axis=0), np.cov(features, rowvar=False)


def _clean_fid(mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray) -> float:
    # clean-fid's tolerances are absolute, and features of rank below D and a large scale would fall through them. The
    # distance scales with the square of the features: bring them near unit variance, by a power of two to be exact.
    variance = float(np.trace(covariance_a) + np.trace(covariance_b)) / (2 * mean_a.size)
    scale = 2.0 ** round(np.log2(variance) / 2) if variance > 0 else 1.0
    declare_missing_operators()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # It calls scipy's sqrtm with an argument that is deprecated; and units that are silent in every sample make the
        # covariance singular, which scipy warns of and clean-fid prints. Both are harmless: the root's trace is what counts.
        warnings.simplefilter("ignore")
        from cleanfid.fid import frechet_distance as distance

        return scale**2 * float(distance(mean_a / scale, covariance_a / scale**2, mean_b / scale, covariance_b / scale**2))
