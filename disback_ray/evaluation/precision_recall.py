"""Precision and recall: which part of what is made could be real, and which part of what is real could be made."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from disback_ray.errors import ConfigError
from disback_ray.evaluation.moments import checked

NEIGHBOURS = 3
ROWS = 1024  # of distances at a time: all pairs of 50,000 at once would take 20 GB


@dataclass(frozen=True)
class PrecisionRecall:
    """Both 0 … 1, higher is better."""

    precision: float
    recall: float


def precision_recall(made: np.ndarray, real: np.ndarray, *, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """The share of each set within the other's manifold (Kynkäänniemi et al. 2019, Eqs. 1–3).

    A set's manifold is the union of balls about its samples, each as wide as the way to its k-th nearest neighbour in the set.
    made, real: [N, D] and [M, D]. Memory is bounded by rows of distances.
    Raises ConfigError where a set has no k-th neighbour or the sizes differ, NonFiniteError for NaN or Inf.
    """
    a, b = (torch.from_numpy(checked(features)) for features in (made, real))
    if a.shape[1] != b.shape[1]:
        raise ConfigError(f"features to compare have {a.shape[1]} and {b.shape[1]} dimensions: take both from the same network")
    if min(len(a), len(b)) <= neighbours:
        raise ConfigError(f"{min(len(a), len(b))} samples: precision and recall need more than {neighbours} of each")
    return PrecisionRecall(precision=_share_within(a, b, neighbours), recall=_share_within(b, a, neighbours))


def _share_within(samples: Tensor, manifold: Tensor, neighbours: int) -> float:
    # cdist's own squares are exact enough in float64, and its matrix product is what makes thousands of pairs quick.
    radii = torch.cat([_nearest(rows, manifold, neighbours + 1)[:, -1] for rows in manifold.split(ROWS)])  # the first is itself
    inside = [(_distances(rows, manifold) <= radii).any(dim=1) for rows in samples.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def _nearest(rows: Tensor, others: Tensor, count: int) -> Tensor:
    return _distances(rows, others).topk(count, dim=1, largest=False, sorted=True).values


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(rows, others)
