"""How far two sets of samples of any shape are apart, without a network that judges them."""

import torch
from torch import Tensor

DIRECTIONS = 256


def sliced_distance(x: Tensor, y: Tensor, *, seed: int) -> float:
    """Sliced 2-Wasserstein distance: the root of the mean of W₂² over random directions (Bonneel et al. 2015), in float64.

    x, y: [N, ...], as many of each; the unit is theirs.
    """
    x, y = (samples.detach().double().cpu().flatten(1) for samples in (x, y))
    assert x.shape == y.shape, (x.shape, y.shape)
    keyed = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(x.shape[1], DIRECTIONS, generator=keyed, dtype=torch.float64), dim=0)
    along_x, along_y = ((samples @ directions).sort(dim=0).values for samples in (x, y))
    return float((along_x - along_y).square().mean().sqrt())
