"""Samples of a model in parts, so that fifty thousand of them need the memory of a few hundred."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.errors import ConfigError, NonFiniteError
from disback_ray.evaluation.extractors import as_pixels
from disback_ray.model import Model

FIRST_PART = 16
NUMBERS = 1 << 24
"""In a part: 1,365 images of 3 × 64 × 64."""
PART = 256
"""So many prompts are encoded at a time, and their embeddings lie on disk meanwhile: 160 MB for SDXL."""


class ModelImages:
    """Images of a model as files would hold them, with the SHA-256 of all pixels that were drawn so far."""

    def __init__(self, model: Model, *, name: str, seed: int) -> None:
        self.model, self.name, self.seed = model, name, seed
        self._sha = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def parts(self, n: int) -> Iterator[list[np.ndarray]]:
        """n images in parts: uint8 [H, W, 1 or 3]. Raises ConfigError where they aren't images, NonFiniteError for NaN or Inf."""
        labels = classes_evenly(n, self.model.classes) if self.model.classes else None
        first, size = 0, FIRST_PART  # how large a sample is, the first ones tell
        while first < n:
            part = None if labels is None else labels[first : first + size]
            x = checked_images(self.model.generate(min(size, n - first), seed=self.seed, labels=part, first=first), self.name)
            first, size = first + len(x), max(FIRST_PART, NUMBERS // x[0].numel())
            images = as_pixels(x)
            self._sha.update(b"".join(image.tobytes() for image in images))
            yield images


def checked_images(x: Tensor, name: str) -> Tensor:
    """x, where it is images. Raises ConfigError where it isn't, NonFiniteError for NaN or Inf."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ConfigError(
            f"{name}: makes samples of shape {list(x.shape[1:])}: features are taken of images with 1 or 3 channels"
        )
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(dim=1).sum())
        raise NonFiniteError(f"{name}: {bad} of {len(x)} samples have NaN or Inf: it may have diverged")
    return x


def drawn_by_parts(model: Model, prompts: Sequence[str], *, seed: int) -> Iterator[tuple[Sequence[str], Tensor]]:
    """One sample for each prompt, some at a time with their prompts: [n, C, H, W] in [-1, 1]. Raises what generate() does."""
    for first in range(0, len(prompts), PART):
        part = prompts[first : first + PART]
        yield part, model.generate(len(part), seed=seed, first=first, prompts=part)
