"""One image for each prompt of a file, in parts, so that thirty thousand of them need the memory of a few hundred."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from disback_ray.data.prompts import Prompts, PromptsData, read_prompts
from disback_ray.errors import ConfigError
from disback_ray.evaluation.clip_score import ClipScore
from disback_ray.evaluation.extractors import as_pixels
from disback_ray.model import Model
from disback_ray.model_images import checked_images, drawn_by_parts
from disback_ray.prompting import check_heard


class PromptedImages:
    """A model's images for prompts, as files would hold them; what CLIP says of those that were drawn so far."""

    def __init__(self, model: Model, prompts: str, *, n: int | None, seed: int, name: str, clip: ClipScore | None) -> None:
        """prompts: a file, one a line, or a .parquet. n: only its first ones.

        Raises ConfigError where there are fewer, or none, one is too long for the model, or it takes none: before any is drawn.
        """
        found = read_prompts(PromptsData(prompts), key="--prompts")
        if n is not None and len(found) < n:
            raise ConfigError(f"--n {n}: {prompts} holds {len(found)} prompts")
        if (network := model.text_network) is None:
            raise ConfigError(f"--prompts {prompts}: {name} takes no prompts")
        asked = Prompts(found.texts[:n], found.where, found.unit)
        check_heard(network, asked)
        self.texts = asked.texts
        self.model, self.seed, self.name, self.clip = model, seed, name, clip
        self.scores: list[np.ndarray] = []
        self._sha = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    @property
    def prompts_sha256(self) -> str:
        """Of the prompts that are drawn, in their order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def parts(self) -> Iterator[list[np.ndarray]]:
        """uint8 [H, W, 3]. Raises NonFiniteError for NaN or Inf."""
        for texts, drawn in drawn_by_parts(self.model, self.texts, seed=self.seed):
            images = as_pixels(checked_images(drawn, self.name))
            self._sha.update(b"".join(image.tobytes() for image in images))
            if self.clip is not None:
                self.scores.append(self.clip.scores(images, texts))
            yield images
