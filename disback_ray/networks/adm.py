"""ADM, the U-Net of Dhariwal and Nichol 2021, as trained in Karras et al. 2022 (Table 7)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray.networks.layers import (
    BRANCH_END,
    Conv2d,
    group_norm,
    initialise,
    positional_embedding,
)
from disback_ray.networks.unet import BlockStyle, UNet

CHANNELS_PER_HEAD = 64


class DhariwalUNet(UNet):
    """F(x, noise label, class) of ADM in EDM's layout.

    `augment_dim` only adds the layer's weights: without an augmentation label it contributes nothing.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        emb_channels = model_channels * channel_mult_emb
        style = BlockStyle(
            emb_channels=emb_channels,
            dropout=dropout,
            eps=1e-5,
            skip_scale=1.0,
            heads=lambda channels: max(1, channels // CHANNELS_PER_HEAD),
            resample_filter=(1, 1),
            project_resampled=False,
            scale_shift=True,
        )
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            model_channels=model_channels,
            channel_mult=channel_mult,
            num_blocks=num_blocks,
            attn_resolutions=attn_resolutions,
            style=style,
            attend_last_only=False,
            residual_input=False,
        )
        self.model_channels = model_channels
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label = nn.Linear(label_dim, emb_channels, bias=False) if label_dim else None
        self.out_norm = group_norm(self.out_width, eps=1e-5)
        self.out_conv = Conv2d(self.out_width, out_channels, kernel=3, gain=BRANCH_END)
        initialise(self)

    def forward(self, x: Tensor, noise_label: Tensor, class_label: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W], noise_label: [B or 1], class_label: [B or 1, label_dim] one-hot → like x."""
        emb = positional_embedding(noise_label, self.model_channels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_label is not None:
            emb = emb + self.map_label(class_label)
        x = self.features(x, F.silu(emb).to(x.dtype))
        return self.out_conv(F.silu(self.out_norm(x)))  # type: ignore[no-any-return]
