"""The Fréchet distance between two sets of features, by eigenvalues in float64."""

import numpy as np

from disback_ray.errors import ConfigError
from disback_ray.evaluation.moments import Gaussian, gaussian_of


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Fréchet distance between the Gaussians of two sets of features (Heusel et al. 2017, Eq. 6); 0 for equal moments.

    features_a, features_b: real [N, D] and [M, D], with N, M > D > 1: fewer samples can't fill a covariance, and their number
    would decide the distance. Raises ConfigError for too few samples or sizes that differ, NonFiniteError for NaN or Inf.
    """
    return frechet_of(gaussian_of(features_a), gaussian_of(features_b))


def frechet_of(a: Gaussian, b: Gaussian) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), lower is closer.

    The root's trace is the sum of the roots of the eigenvalues of √Σ_a Σ_b √Σ_a, a symmetric product: they are real and not
    negative whatever the rank, where a general root of Σ_a Σ_b may be neither. They are taken as the singular values of √Σ_a √Σ_b:
    the root of an eigenvalue that is 0 but for rounding would have half of the digits, and there are many where the rank is low.
    Raises ConfigError where the dimensions differ.
    """
    if a.dimensions != b.dimensions:
        raise ConfigError(
            f"features to compare have {a.dimensions} and {b.dimensions} dimensions: take both from the same network"
        )
    shared = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(max(0.0, apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared))


def frechet_between_halves(features: np.ndarray, *, seed: int = 0) -> float:
    """Fréchet distance between two random halves of one set: what sampling alone makes of a distance of zero.

    features: real [N, D]. Raises what `frechet_distance` raises.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    half = len(features) // 2
    return frechet_distance(features[order[:half]], features[order[half:]])


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    rounding = values[-1] * len(values) * np.finfo(values.dtype).eps  # as numpy.linalg.matrix_rank has it
    root: np.ndarray = vectors * np.sqrt(np.where(values > rounding, values, 0.0)) @ vectors.T
    return root
