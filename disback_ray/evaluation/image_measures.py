"""The Fréchet distance of a generator's images while it trains, against reference statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.extractors import ExtractorSpec, as_pixels
from disback_ray.evaluation.image_figures import ImageFigures, measure
from disback_ray.evaluation.kinds import Origin, require_same_kind, require_same_resolution
from disback_ray.evaluation.moments import require
from disback_ray.evaluation.statistics import read_statistics, tally
from disback_ray.fetching import fetch

PART = 64
SAMPLES = 10_000


@dataclass(frozen=True)
class AgainstReference:
    """What is measured. reference: a file of `disback-ray statistics`; samples: of the generator, for each distance."""

    reference: str
    extractor: ExtractorSpec
    samples: int = SAMPLES


class ImageMeasures:
    """Draws the generator's images in parts, and compares their features with the reference's."""

    def __init__(
        self, against: AgainstReference, *, shape: tuple[int, ...], classes: int, decode: Callable[[Tensor], Tensor] | None
    ) -> None:
        """Raises CheckpointError where a file is missing or another thing, ConfigError where samples are too few or of another kind."""
        self.extractor = against.extractor.build(cache=None)
        self.reference = read_statistics(fetch(against.reference, key="evaluation.reference"))
        if self.reference.kind is None:
            raise ConfigError(
                f"evaluation.reference: {against.reference}: doesn't tell what made it: make it with `disback-ray statistics`"
            )
        require(against.samples, self.reference.gaussian.dimensions)
        kind, name = self.extractor.kind, f"evaluation.reference: {self.reference.origin.name}"
        if decode is None:  # what is known before anything is drawn
            require_same_resolution(Origin("the generator", "", None, (shape[1], shape[2])), self.reference.origin)
            blank = as_pixels(torch.zeros(1, *shape))
            kind = replace(kind, dimensions=self.extractor.features(blank).shape[1])
        elif not kind.dimensions:
            kind = replace(kind, dimensions=self.reference.kind.dimensions)
        require_same_kind(kind, self.reference.kind, name=name)
        self.samples, self.shape, self.classes, self.decode = against.samples, shape, classes, decode

    def figures(self, draw: Callable[[Drawn, int], Tensor]) -> ImageFigures:
        """draw: the generator's samples for a shape and classes, from a number on. Raises ConfigError, NonFiniteError."""
        sha256 = hashlib.sha256()
        found = tally(self._parts(draw, sha256.update), self.extractor, keep=0)
        return measure([found.statistics("the generator", sha256.hexdigest())], self.reference)

    def _parts(self, draw: Callable[[Drawn, int], Tensor], saw: Callable[[bytes], None]) -> Iterator[list[np.ndarray]]:
        labels = classes_evenly(self.samples, self.classes) if self.classes else None
        for first in range(0, self.samples, PART):
            size = min(PART, self.samples - first)
            x = draw(Drawn(torch.empty(size, *self.shape), None if labels is None else labels[first : first + size]), first)
            x = self.decode(x) if self.decode else x
            if not torch.isfinite(x).all():
                raise NonFiniteError("the generator's images have NaN or Inf: it may have diverged")
            images = as_pixels(x)
            saw(b"".join(image.tobytes() for image in images))
            yield images
