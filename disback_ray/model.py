"""What samples can be drawn from, what may be asked of it, and where they are written."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from disback_ray.algorithms.records import Drawn
from disback_ray.algorithms.sampling import classes_evenly
from disback_ray.errors import CheckpointError, ConfigError, NonFiniteError
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.pictures import image_grid, snapshots
from disback_ray.storage import Folder

MOST = 2**24
"""Samples of one call; a recipe's measurements have the same limit."""


class Model(Protocol):
    """What samples can be drawn from: a run's generator, or a teacher. classes: 0 where it is unconditional.

    text_network: of a model that takes prompts, whose classes are the numbers of those that it was trained with; else None.
    drawn: in what its samples are drawn, in words: steps of a sampler, and guidance.
    """

    @property
    def classes(self) -> int: ...

    @property
    def text_network(self) -> TextUNetSpec | None: ...

    @property
    def drawn(self) -> str: ...

    def generate(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Tensor | list[int] | None = None,
        first: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> Tensor: ...


def wanted(n: int, shape: tuple[int, ...], labels: Tensor | list[int] | None, classes: int) -> Drawn:
    """What n samples of this shape are asked for, without their numbers. labels: [n], or None for the classes evenly.

    Raises ConfigError where n or the labels can't be.
    """
    if n < 1:
        raise ConfigError(f"n: {n}: ask for at least one sample")
    if n > MOST:
        raise ConfigError(f"n: {n}: at most {MOST:,} at once: draw the rest with another seed")
    return Drawn(torch.empty(1).expand(n, *shape), _classes(n, labels, classes))  # a shape, and no memory


def _classes(n: int, labels: Tensor | list[int] | None, classes: int) -> Tensor | None:
    if not classes:
        if labels is not None:
            raise ConfigError("labels: this model is unconditional and takes none")
        return None
    chosen = classes_evenly(n, classes) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    if chosen.shape != (n,) or int(chosen.min()) < 0 or int(chosen.max()) >= classes:
        raise ConfigError(f"labels: expected {n} class ids of 0 … {classes - 1}")
    return chosen


def save_samples(model: Model, n: int, *, seed: int, out: str | Path, prompts: Sequence[str] | None = None) -> None:
    """Writes samples as a picture (.png) or as arrays (.npz), to a file or a URI. Raises ConfigError, CheckpointError, NonFiniteError."""
    folder, name = Folder.of_file(out)
    x = model.generate(n, seed=seed, prompts=prompts)
    if not torch.isfinite(x).all():
        raise NonFiniteError("the samples have NaN or Inf: the model's weights have too, or it diverged")
    classes = model.classes if prompts is None else len(prompts)
    data = io.BytesIO()
    if name.endswith(".png"):
        data.write(image_grid(x, columns=max(1, round(n**0.5))) if x.ndim == 4 else snapshots([("", x)], x[:0]))
    else:
        if classes:
            np.savez(data, x=x.numpy(), labels=classes_evenly(n, classes).numpy(), drawn=np.array(seed))
        else:
            np.savez(data, x=x.numpy(), drawn=np.array(seed))
    try:
        folder.write(name, data.getvalue())
    except CheckpointError as error:
        raise ConfigError(f"--out {out}: {error}") from None
