"""The encoder–decoder that DDPM++, NCSN++ and ADM share, with the names of EDM's state dicts.

B batch, C channels, H W pixels, L embedding width. One level per resolution, each half the one before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray.networks.layers import BRANCH_END, Block, Conv2d, attend, group_norm


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of one network have in common."""

    emb_channels: int
    dropout: float
    eps: float
    skip_scale: float  # √½ keeps the variance of a sum of two; 1 adds plainly
    resample_filter: tuple[float, ...]
    project_resampled: bool  # a 1 × 1 convolution on the skip path also where only the resolution changes
    scale_shift: bool  # the embedding scales and shifts the normalised features, instead of being added
    heads: Callable[[int], int]  # channels → attention heads


class UNetBlock(Block):
    """Residual block, with self-attention on request. Karras et al. 2022, Table 7.

    Raises ValueError for a number of channels that normalisation or attention can't split evenly.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.skip_scale, self.scale_shift = style.dropout, style.skip_scale, style.scale_shift
        filters = style.resample_filter
        self.norm0 = group_norm(in_channels, eps=style.eps)
        self.conv0 = Conv2d(in_channels, out_channels, kernel=3, up=up, down=down, resample_filter=filters)
        self.affine = nn.Linear(style.emb_channels, out_channels * (2 if style.scale_shift else 1))
        self.norm1 = group_norm(out_channels, eps=style.eps)
        self.conv1 = Conv2d(out_channels, out_channels, kernel=3, gain=BRANCH_END)
        self.skip: Conv2d | None = None
        if in_channels != out_channels or up or down:
            kernel = 1 if in_channels != out_channels or style.project_resampled else 0
            self.skip = Conv2d(in_channels, out_channels, kernel=kernel, up=up, down=down, resample_filter=filters)
        self.heads = style.heads(out_channels) if attention else 0
        if self.heads:
            if out_channels % self.heads:
                raise ValueError(f"{out_channels} channels can't be split among {self.heads} attention heads")
            self.norm2 = group_norm(out_channels, eps=style.eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, kernel=1, gain=0.2**0.5)
            self.proj = Conv2d(out_channels, out_channels, kernel=1, gain=BRANCH_END)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [B, C_in, H, W], emb: [B or 1, L] → [B, C_out, H', W']."""
        skip = x if self.skip is None else self.branch(self.skip, x)
        x = self.branch(self._first, x)
        x = (self.branch(self._second, x, emb) + skip) * self.skip_scale
        if self.heads:
            x = (x + self.branch(self._attention, x)) * self.skip_scale
        return x

    def _first(self, x: Tensor) -> Tensor:
        return self.conv0(F.silu(self.norm0(x)))  # type: ignore[no-any-return]

    def _second(self, x: Tensor, emb: Tensor) -> Tensor:
        shift = self.affine(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            x = torch.addcmul(shift, self.norm1(x), scale + 1)
        else:
            x = self.norm1(x + shift)
        return self.conv1(F.dropout(F.silu(x), self.dropout, self.training))  # type: ignore[no-any-return]

    def _attention(self, x: Tensor) -> Tensor:
        # Channels of qkv are laid out (heads, dim, three).
        qkv = self.qkv(self.norm2(x)).reshape(x.shape[0], self.heads, x.shape[1] // self.heads, 3, -1)
        q, k, v = qkv.unbind(dim=3)
        return self.proj(attend(q, k, v, out=tuple(x.shape)))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Encoder `enc`, decoder `dec` and their skip connections; a subclass embeds σ and gives pixels.

    `attend_last_only`: in the decoder only a level's last block attends (DDPM++), not all of them (ADM).
    `residual_input`: a filtered copy of the image joins at each level (the residual encoder of NCSN++).
    Raises ValueError for a number of channels that can't be split evenly.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        in_channels: int,
        model_channels: int,
        channel_mult: Sequence[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
        style: BlockStyle,
        attend_last_only: bool,
        residual_input: bool,
    ) -> None:
        super().__init__()
        if model_channels % 2:
            raise ValueError(f"{model_channels} channels can't hold pairs of cosines and sines")
        self.num_blocks = num_blocks
        self.sides = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

        skips: list[int] = []
        width, image_width = in_channels, in_channels
        for side, next_width in zip(self.sides, widths, strict=True):
            if not skips:
                width = model_channels
                self.enc[f"{side}x{side}_conv"] = Conv2d(in_channels, width, kernel=3)
            else:
                self.enc[f"{side}x{side}_down"] = UNetBlock(width, width, style, down=True)
                if residual_input:
                    filters = style.resample_filter
                    joint = Conv2d(image_width, width, kernel=3, down=True, resample_filter=filters, filter_last=True)
                    self.enc[f"{side}x{side}_aux_residual"] = joint
                    image_width = width
            skips.append(width)
            for index in range(num_blocks):
                block = UNetBlock(width, next_width, style, attention=side in attn_resolutions)
                self.enc[f"{side}x{side}_block{index}"] = block
                width = next_width
                skips.append(width)

        for level in reversed(range(len(widths))):
            side = self.sides[level]
            if level == len(widths) - 1:
                self.dec[f"{side}x{side}_in0"] = UNetBlock(width, width, style, attention=True)
                self.dec[f"{side}x{side}_in1"] = UNetBlock(width, width, style)
            else:
                self.dec[f"{side}x{side}_up"] = UNetBlock(width, width, style, up=True)
            for index in range(num_blocks + 1):
                attention = side in attn_resolutions and (index == num_blocks or not attend_last_only)
                block = UNetBlock(width + skips.pop(), widths[level], style, attention=attention)
                self.dec[f"{side}x{side}_block{index}"] = block
                width = widths[level]
        self.out_width = width

    def features(self, image: Tensor, emb: Tensor) -> Tensor:
        """image: [B, C, H, W], emb: [B or 1, L] → [B, out_width, H, W]."""
        x, skips = image, []
        for level, side in enumerate(self.sides):
            x = self.enc[f"{side}x{side}_down"](x, emb) if level else self.enc[f"{side}x{side}_conv"](x)
            residual = f"{side}x{side}_aux_residual"
            if residual in self.enc:
                x = image = (x + self.enc[residual](image)) * 0.5**0.5
            skips.append(x)
            for index in range(self.num_blocks):
                x = self.enc[f"{side}x{side}_block{index}"](x, emb)
                skips.append(x)
        for level, side in reversed(list(enumerate(self.sides))):
            if level == len(self.sides) - 1:
                x = self.dec[f"{side}x{side}_in1"](self.dec[f"{side}x{side}_in0"](x, emb), emb)
            else:
                x = self.dec[f"{side}x{side}_up"](x, emb)
            for index in range(self.num_blocks + 1):
                x = self.dec[f"{side}x{side}_block{index}"](torch.cat([x, skips.pop()], dim=1), emb)
        return x
