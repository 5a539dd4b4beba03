"""The U-Net of openai's consistency models: ADM in guided-diffusion's layout, with its state dict's names.

B batch, C channels, H W pixels, L embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray.networks.layers import BRANCH_END, Block, Conv2d, attend, initialise, positional_embedding

GROUPS = 32


class ResBlock(Block):
    """Residual block, optionally at double or half resolution. Dhariwal and Nichol 2021, section 3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        dropout: float,
        scale_shift: bool,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.up, self.down, self.scale_shift = up, down, scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, in_channels), nn.SiLU(), Conv2d(in_channels, out_channels, kernel=3))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            Conv2d(out_channels, out_channels, kernel=3, gain=BRANCH_END),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv2d(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [B, C_in, H, W], emb: [B or 1, L] → [B, C_out, H', W']."""
        h = self.branch(self._second, self.branch(self._first, x), emb)
        return self.branch(self._skip, x) + h

    def _skip(self, x: Tensor) -> Tensor:
        return self.skip_connection(self._resample(x))  # type: ignore[no-any-return]

    def _first(self, x: Tensor) -> Tensor:
        norm, activation, convolve = self.in_layers
        return convolve(self._resample(activation(norm(x))))  # type: ignore[no-any-return]

    def _second(self, h: Tensor, emb: Tensor) -> Tensor:
        shift = self.emb_layers(emb)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        for layer in rest:
            h = layer(h)
        return h

    def _resample(self, x: Tensor) -> Tensor:
        if self.up:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.down else x


class AttentionBlock(Block):
    """Self-attention over pixels, heads of `head_channels`; qkv channels lie as (three, heads, dim)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        assert channels % head_channels == 0, f"{channels} channels can't form heads of {head_channels}"
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = Conv2d(channels, 3 * channels, kernel=1)
        self.proj_out = Conv2d(channels, channels, kernel=1, gain=BRANCH_END)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self._attention, x)

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], 3, self.heads, x.shape[1] // self.heads, -1).unbind(1)
        return self.proj_out(attend(q, k, v, out=tuple(x.shape)))  # type: ignore[no-any-return]


class Stage(nn.Sequential):
    """Layers in a row, of which residual blocks also take the embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ConsistencyUNet(nn.Module):
    """F(x, noise label, class id) in openai's layout, with residual blocks that change the resolution.

    `attention_factors`: how many times smaller than the image the levels with attention are; (2, 4) means 32
    and 16 pixels of 64. The weights don't depend on the image size.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 192,
        num_res_blocks: int = 3,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        attention_factors: Sequence[int] = (2, 4, 8),
        head_channels: int = 64,
        num_classes: int = 0,
        scale_shift: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.model_channels = model_channels
        emb_channels = 4 * model_channels
        widths = [model_channels * mult for mult in channel_mult]
        last = len(widths) - 1

        def block(before: int, after: int, *, up: bool = False, down: bool = False) -> ResBlock:
            return ResBlock(before, after, emb_channels, dropout=dropout, scale_shift=scale_shift, up=up, down=down)

        def attention(level: int) -> list[nn.Module]:
            return [AttentionBlock(widths[level], head_channels)] if 2**level in attention_factors else []

        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels))
        self.label_emb = nn.Embedding(num_classes, emb_channels) if num_classes else None

        width = widths[0]
        self.input_blocks = nn.ModuleList([Stage(Conv2d(in_channels, width, kernel=3))])
        skips = [width]
        for level, next_width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Stage(block(width, next_width), *attention(level)))
                width = next_width
                skips.append(width)
            if level < last:
                self.input_blocks.append(Stage(block(width, width, down=True)))
                skips.append(width)
        self.middle_block = Stage(block(width, width), AttentionBlock(width, head_channels), block(width, width))
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(num_res_blocks + 1):
                layers = [block(width + skips.pop(), widths[level]), *attention(level)]
                width = widths[level]
                if level and index == num_res_blocks:
                    layers.append(block(width, width, up=True))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), Conv2d(width, out_channels, kernel=3, gain=BRANCH_END))
        initialise(self)

    def forward(self, x: Tensor, noise_label: Tensor, class_id: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W], noise_label: [B or 1], class_id: int64 [B], -1 for none → like x."""
        emb = self.time_embed(positional_embedding(noise_label, self.model_channels))
        if class_id is not None:
            assert self.label_emb is not None, "labels were given to an unconditional network"
            known = (class_id >= 0).unsqueeze(1)
            emb = emb + known * self.label_emb(class_id.clamp(min=0))
        emb, skips = emb.to(x.dtype), []
        for stage in self.input_blocks:
            x = stage(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)  # type: ignore[no-any-return]
