"""Data as settings: what a recipe names, and how the trainer and the evaluator draw from it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from disback_ray.algorithms.noise import Batch, Positive
from disback_ray.algorithms.records import Drawn
from disback_ray.data.digits import Digits, load_digits


@dataclass(frozen=True)
class DigitsData:
    """scikit-learn's 1,797 real 8×8 images of handwritten digits. conditional: hand the class to the networks."""

    conditional: bool = True
    kind: Literal["digits"] = "digits"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def classes(self) -> int:
        return 10 if self.conditional else 0

    @cached_property
    def _all(self) -> Digits:
        return load_digits()

    def draw(self, batch: Batch) -> Drawn:
        """Images drawn with replacement, keyed by the batch: x [B, 1, 8, 8], condition [B] or None."""
        chosen = batch.integers("data", len(self._all.images))
        return Drawn(self._all.images[chosen], self._all.labels[chosen] if self.conditional else None)


@dataclass(frozen=True)
class RingData:
    """Equal Gaussians evenly on a circle."""

    modes: Annotated[int, Ge(1)] = 8
    radius: Positive = 2.0
    std: Positive = 0.1
    kind: Literal["ring"] = "ring"
    shape = (2,)
    classes = 0

    @property
    def centres(self) -> Tensor:
        """[modes, 2], float64."""
        angle = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def draw(self, batch: Batch) -> Drawn:
        """Points keyed by the batch: x [B, 2]."""
        return _draw_mixture(self.centres, self.std, batch)


@dataclass(frozen=True)
class GridData:
    """Equal Gaussians on a square grid around the origin."""

    side: Annotated[int, Ge(1)] = 5
    spacing: Positive = 1.0
    std: Positive = 0.05
    kind: Literal["grid"] = "grid"
    shape = (2,)
    classes = 0

    @property
    def centres(self) -> Tensor:
        """[side², 2], float64."""
        line = (torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2) * self.spacing
        return torch.cartesian_prod(line, line)

    def draw(self, batch: Batch) -> Drawn:
        """Points keyed by the batch: x [B, 2]."""
        return _draw_mixture(self.centres, self.std, batch)


def _draw_mixture(centres: Tensor, std: float, batch: Batch) -> Drawn:
    mode = batch.integers("data/mode", len(centres))
    return Drawn(centres[mode].float() + std * batch.normal("data/point", (2,)), None)


@dataclass(frozen=True)
class NoData:
    """No data set: the teacher comes from a file, and says what it makes."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True)
class ImagesData:
    """Images of one's own: a folder, a zip or a parquet file. Their number and classes are known once they are read (prepared.py).

    resolution: pixels a side, of each image's centre square; conditional: hand their labels to the networks; grey: one channel;
    skip_corrupt: leave out images that can't be read, instead of refusing them all.
    """

    path: str
    resolution: Annotated[int, Ge(1), Le(4096)]
    conditional: bool = False
    grey: bool = False
    skip_corrupt: bool = False
    kind: Literal["images"] = "images"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 if self.grey else 3, self.resolution, self.resolution)


PointsData = RingData | GridData
