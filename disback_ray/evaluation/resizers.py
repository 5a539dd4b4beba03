"""How images come to an Inception network's 299 × 299 pixels: clean-fid's three modes, whose figures don't compare."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Mode = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]


def resized(images: Sequence[np.ndarray], mode: Mode) -> list[Tensor]:
    """By clean-fid's own resizers (Parmar et al. 2022): float32 [3, H, W] each, 0 … 255.

    images: uint8 [H, W, 3] each. legacy_tensorflow leaves them as they are, since that network resizes within.
    """
    resize = _resizer(mode)
    return [torch.from_numpy(np.array(resize(image), np.float32).transpose(2, 0, 1).copy()) for image in images]


def _resizer(mode: Mode) -> Callable[[np.ndarray], np.ndarray]:
    with warnings.catch_warnings():  # clean-fid switches all warnings of the process off, and this on again
        from cleanfid.resize import build_resizer

        made: Callable[[np.ndarray], np.ndarray] = build_resizer(mode)
        return made
