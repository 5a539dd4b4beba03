"""KID: how far two sets of features are apart under a cubic kernel. Unbiased, so that few samples are not punished."""

import numpy as np

from disback_ray.errors import ConfigError
from disback_ray.evaluation.moments import checked

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(
    features_a: np.ndarray, features_b: np.ndarray, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> float:
    """Squared MMD under k(x, y) = (x·y / D + 1)³, the mean over random subsets (Bińkowski et al. 2018, Eq. 4; as clean-fid has it).

    features_a, features_b: real [N, D] and [M, D]. size: of a subset, fewer where a set has fewer; then one subset is all.
    seed: of the subsets alone. It may come out a little below 0 for equal distributions.
    Raises ConfigError for fewer than two samples or sizes that differ, NonFiniteError for NaN or Inf.
    """
    a, b = checked(features_a), checked(features_b)
    if a.shape[1] != b.shape[1]:
        raise ConfigError(f"features to compare have {a.shape[1]} and {b.shape[1]} dimensions: take both from the same network")
    size = min(size, len(a), len(b))
    if size < 2:
        raise ConfigError(f"{size} samples: the kernel distance compares pairs, and needs at least 2 of each")
    if size == len(a) == len(b):
        subsets = 1
    random = np.random.default_rng(seed)
    total = 0.0
    for _ in range(subsets):
        x, y = (random.choice(each, size, replace=False, axis=0) for each in (a, b))
        within = sum(float(k.sum() - np.trace(k)) for k in (_kernel(x, x), _kernel(y, y)))
        total += within / (size * (size - 1)) - 2 * float(_kernel(x, y).mean())
    return total / subsets


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    values: np.ndarray = (x @ y.T / x.shape[1] + 1) ** 3
    return values
