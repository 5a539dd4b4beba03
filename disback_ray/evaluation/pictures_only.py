"""Without a data set there is nothing to measure against: pictures only."""

from collections.abc import Callable

import torch
from torch import Tensor

from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.pictures import image_grid


class PicturesOnly:
    """What DigitMeasures and PointMeasures have for pictures. shape: one sample's, [C, H, W]; classes: 0 where unconditional.

    decode: what makes images of the samples, where those are latents.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, decode: Callable[[Tensor], Tensor] | None = None) -> None:
        self.shape = shape
        self.classes = classes
        self.decode = decode

    def wanted_pictures(self, count: int) -> Drawn:
        """What to draw for a picture: of every class the same number, or of evenly chosen ones."""
        return Drawn(torch.empty(count, *self.shape), classes_evenly(count, self.classes) if self.classes else None)

    def picture(self, drawn: Drawn) -> bytes:
        """A grid of ten columns as PNG."""
        return image_grid((self.decode(drawn.x) if self.decode else drawn.x).cpu(), columns=10)
