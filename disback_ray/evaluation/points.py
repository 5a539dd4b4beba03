"""How near one set of 2-D points is to another, and which modes of a mixture it covers.

x: [N, 2], y: [M, 2]: tensors or arrays, N and M may differ. All is computed in float64.
Each raises ConfigError for other shapes and NonFiniteError for NaN or Inf.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from disback_ray.errors import ConfigError, NonFiniteError

Points = np.ndarray | Tensor
ROWS = 64  # of points whose distances to all others are held at once: they stay in the cache


def sliced_wasserstein(x: Points, y: Points, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance: the root of the mean of W₂² over directions (Bonneel et al. 2015).

    In the unit of the points. Directions share the half circle evenly, from a start drawn from `seed`: for a shift by d the
    distance is |d| / √2, however many there are.
    """
    x, y = _checked("x", x), _checked("y", y)
    angles = (np.arange(projections) + np.random.default_rng(seed).uniform()) * (np.pi / projections)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    on_x, on_y = np.sort(x @ directions, axis=0), np.sort(y @ directions, axis=0)
    # On a line the optimal transport pairs equal quantiles. Both quantile functions are steps: constant between the
    # levels i/N and j/M, counted here in units of 1/(N M) to keep them whole.
    n, m = len(x), len(y)
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    mass, start = np.diff(levels) / (n * m), levels[:-1]
    squared = mass @ (on_x[start // m] - on_y[start // n]) ** 2
    return float(np.sqrt(squared.mean()))


def energy_distance(x: Points, y: Points, *, apart: float | None = None) -> float:
    """Energy distance 2 E|X−Y| − E|X−X'| − E|Y−Y'|, not its root; 0 for equal sets (Székely and Rizzo 2013, Eq. 6.1).

    apart: mean_apart(y), where it is known already.
    """
    x, y = _checked("x", x), _checked("y", y)
    return max(0.0, 2 * _mean_distance(x, y) - mean_apart(x) - (mean_apart(y) if apart is None else apart))


def mean_apart(x: Points) -> float:
    """E|X−X'| over all pairs of points, also of each with itself."""
    x = _checked("x", x)
    total = 0.0
    for start in range(0, len(x), ROWS):
        block, later = x[start : start + ROWS], x[start + ROWS :]
        total += float(_distances(block, block).sum()) + (2 * float(_distances(block, later).sum()) if len(later) else 0.0)
    return total / len(x) ** 2


@dataclass(frozen=True)
class ModeCoverage:
    """How a set of points is spread over modes.

    covered: how many modes of `total` hold points enough. balance: 1 when all hold the same number, 1 / total when one holds all.
    strays: the share of points in no mode, 0–1.
    """

    covered: int
    total: int
    balance: float
    strays: float


def modes_covered(points: Points, centres: Points, std: float, *, share: float = 0.25) -> ModeCoverage:
    """Count the modes of an equal-weight mixture of isotropic Gaussians that a set of points covers.

    A point belongs to the nearest centre if that is within 3 std (where a Gaussian has 98.9 % of its points in 2-D).
    A mode is covered when it holds at least `share` of the points it is due, that is `share` · N / modes.
    balance is exp(entropy of the modes' shares) / modes: the effective number of modes, as a part of all.
    points: [N, 2]. centres: [modes, 2]. std: the modes', in the unit of the points.
    """
    points, centres = _checked("points", points), _checked("centres", centres)
    distance = _distances(points, centres)
    nearest = distance.argmin(axis=1)
    inside = distance.min(axis=1) <= 3 * std
    counts = np.bincount(nearest[inside], minlength=len(centres))
    held = counts[counts > 0] / max(1, counts.sum())
    effective = float(np.exp(-(held * np.log(held)).sum())) if held.size else 0.0
    return ModeCoverage(
        covered=int((counts >= share * len(points) / len(centres)).sum()),
        total=len(centres),
        balance=effective / len(centres),
        strays=1.0 - float(inside.mean()),
    )


def _mean_distance(x: np.ndarray, y: np.ndarray) -> float:
    return sum(float(_distances(x[i : i + ROWS], y).sum()) for i in range(0, len(x), ROWS)) / (len(x) * len(y))


def _checked(name: str, points: Points) -> np.ndarray:
    array = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ConfigError(f"{name} has shape {array.shape}: give 2-D points, [N, 2] with N > 0")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        raise NonFiniteError(f"{bad} of {len(array)} points of {name} are NaN or Inf: the generator may have diverged")
    return array


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, M] Euclidean distances of points [N, D] and [M, D]."""
    from scipy.spatial.distance import cdist  # a third of a second to import, in the driver and in each role

    distances: np.ndarray = cdist(x, y)
    return distances
