"""Layers that the U-Nets share: convolution with resampling, normalisation, attention, noise embeddings.

B batch, C channels, H W pixels.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BRANCH_END = 1e-5  # gain of the last layer of a residual branch: a fresh block is nearly the identity


class Conv2d(nn.Module):
    """Convolution with an odd `kernel`, that may double or halve the resolution; `kernel` 0 only resamples.

    Resampling comes before the convolution, except with `filter_last` (the residual encoder of NCSN++).
    `resample_filter` is the 1-D filter; its normalised outer product is a buffer of the state dict.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        filter_last: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        assert not (up and down)
        assert kernel > 0 or in_channels == out_channels
        self.up, self.down, self.filter_last, self.gain = up, down, filter_last, gain
        self.taps = tuple(resample_filter)
        self.padding = kernel // 2
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if kernel:
            self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
            self.bias = nn.Parameter(torch.empty(out_channels))
        # [1, 1] is pixel doubling and the mean of 2 × 2 pixels: torch has both, much faster than a filter.
        self.box = len(resample_filter) == 2 and resample_filter[0] == resample_filter[1]
        self.filter_padding = (len(resample_filter) - 1) // 2
        if up or down:
            line = torch.tensor(resample_filter, dtype=torch.float32)
            self.register_buffer("resample_filter", torch.outer(line, line)[None, None] / line.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.filter_last:
            # The filter's padding is spent before the convolution, so that borders match the trained weights.
            assert self.down
            assert self.weight is not None
            x = F.conv2d(x, self.weight, self.bias, padding=self.padding + self.filter_padding)
            return self._halve(x, padding=0)
        if self.up:
            x = self._double(x)
        elif self.down:
            x = self._halve(x, padding=self.filter_padding)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def narrowed(self, channels: int) -> "Conv2d":
        """One with so many channels and no bias, that sees what this one sees."""
        assert self.weight is not None
        narrow = Conv2d(
            self.weight.shape[1], channels, kernel=self.weight.shape[-1],
            up=self.up, down=self.down, resample_filter=self.taps, filter_last=self.filter_last,
        )  # fmt: skip
        narrow.bias = None
        return narrow

    def _double(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        taps = (4 * self.resample_filter).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, taps, groups=x.shape[1], stride=2, padding=self.filter_padding)

    def _halve(self, x: Tensor, *, padding: int) -> Tensor:
        if self.box:
            return F.avg_pool2d(x, 2)
        taps = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, taps, groups=x.shape[1], stride=2, padding=padding)


def group_norm(channels: int, *, eps: float) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels. Wu and He 2018."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=eps)


def attend(q: Tensor, k: Tensor, v: Tensor, *, out: tuple[int, ...]) -> Tensor:
    """Dot-product attention over pixels. Vaswani et al. 2017, Eq. 1.

    q, k, v: [B, heads, dim, H·W]; the result has shape `out` = (B, heads·dim, H, W).
    """
    q, k, v = (t.transpose(-1, -2).contiguous() for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(out)


def positional_embedding(values: Tensor, channels: int, *, endpoint: bool = False) -> Tensor:
    """[cos, sin] at geometric frequencies from 1 to 1/10000. Vaswani et al. 2017, section 3.5.

    values: [B] → [B, channels], float32. `endpoint`: the last frequency is 1/10000 exactly.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device) / (half - int(endpoint))
    phases = torch.outer(values.float(), (1 / 10000) ** steps)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


class Block(nn.Module):
    """A residual block of which each branch ends in a convolution, so that one can be computed again up to that (checkpointing.py)."""

    def branch(self, layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """layers(*inputs)."""
        return layers(*inputs)


class FourierEmbedding(nn.Module):
    """[cos, sin] at fixed random frequencies, N(0, 16²). Tancik et al. 2020; Song et al. 2021, NCSN++."""

    freqs: Tensor
    scale = 16.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels // 2))

    def forward(self, values: Tensor) -> Tensor:
        phases = torch.outer(values.float(), 2 * math.pi * self.freqs.float())
        return torch.cat([phases.cos(), phases.sin()], dim=1)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw every weight anew: Glorot uniform times the layer's gain, biases zero.

    As torch's own layers do, this draws from torch's generator: whoever builds a network forks and seeds it.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | Conv2d) and module.weight is not None:
            nn.init.xavier_uniform_(module.weight)
            if isinstance(module, Conv2d):
                module.weight.mul_(module.gain)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, FourierEmbedding):
            module.freqs.normal_(std=module.scale)
