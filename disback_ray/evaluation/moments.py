"""Mean and covariance of features that come in parts, in float64 and in memory for one part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disback_ray.errors import ConfigError, NonFiniteError

Array = np.ndarray
NAMED = 3  # images in a message


@dataclass(frozen=True)
class Gaussian:
    """What the Fréchet distance compares. mean: [D]; covariance: [D, D], of n − 1; float64. samples: how many, None if not told."""

    mean: Array
    covariance: Array
    samples: int | None = None

    @property
    def dimensions(self) -> int:
        return int(self.mean.size)


class Moments:
    """Streaming mean and covariance: parts are merged as in Chan et al. 1982, which no large mean spoils."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array = np.zeros(0)
        self._scatter: Array = np.zeros((0, 0))

    def add(self, features: Array) -> None:
        """Takes a part in: real [B, D]. Raises ConfigError for another shape, NonFiniteError for NaN or Inf."""
        part = checked(features)
        if not len(part):
            return
        if not self.count:
            self._mean, self._scatter = np.zeros(part.shape[1]), np.zeros((part.shape[1], part.shape[1]))
        elif part.shape[1] != self._mean.size:
            raise ConfigError(f"features of {part.shape[1]} dimensions came after {self._mean.size}: take all from one network")
        mean = part.mean(axis=0)
        centred, shift, total = part - mean, mean - self._mean, self.count + len(part)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(part) / total)
        self._mean = self._mean + shift * (len(part) / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Raises ConfigError where there are too few samples for the dimensions."""
        require(self.count, self._mean.size)
        return Gaussian(self._mean.copy(), self._scatter / (self.count - 1), self.count)


def gaussian_of(features: Array) -> Gaussian:
    """Of features that are all there: real [N, D]. Raises what `Moments` raises."""
    moments = Moments()
    moments.add(features)
    return moments.gaussian()


def require(samples: int, dimensions: int) -> None:
    """Raises ConfigError where so many samples can't fill a covariance: their number would decide the distance."""
    if samples < dimensions + 1:
        raise ConfigError(
            f"{samples} samples for {dimensions} features: the Fréchet distance needs at least {dimensions + 1}, evaluate more"
        )


def require_finite(features: Array, names: Sequence[str], *, before: int) -> None:
    """features: real [B, …] of the images of these names; before: so many came before them.

    Raises NonFiniteError, which names the first of those whose features are NaN or Inf.
    """
    finite = np.isfinite(features).reshape(len(names), -1).all(axis=1)
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise NonFiniteError(
            f"features of {len(bad)} of the first {before + len(names)} images are NaN or Inf: {', '.join(bad[:NAMED])}{more}: "
            "look at them, and at the extractor"
        )


def checked(features: Array) -> Array:
    """As float64 [N, D]. Raises ConfigError for another shape, NonFiniteError for NaN or Inf."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] < 2:
        raise ConfigError(f"features have shape {features.shape}: give one row per sample, [N, D] with D > 1")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"features of {int((~finite).sum())} of {len(features)} samples are NaN or Inf: "
            "look at the samples, the generator may have diverged"
        )
    return features
