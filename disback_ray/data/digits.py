"""The 1,797 handwritten digits that scikit-learn carries: small enough to train and distil on a CPU, with no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """Images beside their labels.

    images: float32 [N, 1, 8, 8], in [-1, 1], ink is bright. labels: int64 [N], 0–9.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Digits:
        """The digits at `index`, int64 [M] or bool [N]."""
        return Digits(self.images[index], self.labels[index])


def load_digits() -> Digits:
    """Read the digits out of scikit-learn's own files (Alpaydin and Kaynak 1998, UCI's handwritten digits)."""
    from sklearn.datasets import load_digits as read  # slow to import, and only a digits run needs it

    pixels, labels = read(return_X_y=True)  # pixels: float64 [1797, 64], whole numbers 0–16
    images = torch.as_tensor(pixels).to(torch.float32).div(8).sub(1).reshape(-1, 1, 8, 8)
    return Digits(images, torch.as_tensor(labels).to(torch.int64))
