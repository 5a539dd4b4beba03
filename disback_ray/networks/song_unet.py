"""DDPM++ and NCSN++, the U-Nets of Song et al. 2021, as trained in Karras et al. 2022 (Table 7)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray.networks.layers import (
    BRANCH_END,
    Conv2d,
    FourierEmbedding,
    group_norm,
    initialise,
    positional_embedding,
)
from disback_ray.networks.unet import BlockStyle, UNet


class SongUNet(UNet):
    """F(x, noise label, class) of DDPM++ or NCSN++.

    DDPM++: positional embedding, standard encoder, filter [1, 1]; NCSN++: fourier, residual, [1, 3, 3, 1].
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
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        decoder_type: Literal["standard"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        assert embedding_type in ("positional", "fourier"), embedding_type
        assert encoder_type in ("standard", "residual"), encoder_type
        assert decoder_type == "standard", decoder_type
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        style = BlockStyle(
            emb_channels=emb_channels,
            dropout=dropout,
            eps=1e-6,
            skip_scale=0.5**0.5,
            heads=lambda channels: 1,
            resample_filter=tuple(resample_filter),
            project_resampled=True,
            scale_shift=False,
        )
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            model_channels=model_channels,
            channel_mult=channel_mult,
            num_blocks=num_blocks,
            attn_resolutions=attn_resolutions,
            style=style,
            attend_last_only=True,
            residual_input=encoder_type == "residual",
        )
        self.noise_channels, self.label_dim = noise_channels, label_dim
        self.map_noise = FourierEmbedding(noise_channels) if embedding_type == "fourier" else nn.Identity()
        self.map_label = nn.Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        side = img_resolution
        self.dec[f"{side}x{side}_aux_norm"] = group_norm(self.out_width, eps=1e-6)
        self.dec[f"{side}x{side}_aux_conv"] = Conv2d(self.out_width, out_channels, kernel=3, gain=BRANCH_END)
        initialise(self)

    def forward(self, x: Tensor, noise_label: Tensor, class_label: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W], noise_label: [B or 1], class_label: [B or 1, label_dim] one-hot → like x."""
        x = self.features(x, self._embed(noise_label, class_label).to(x.dtype))
        side = self.sides[0]
        return self.dec[f"{side}x{side}_aux_conv"](F.silu(self.dec[f"{side}x{side}_aux_norm"](x)))  # type: ignore[no-any-return]

    def _embed(self, noise_label: Tensor, class_label: Tensor | None) -> Tensor:
        if isinstance(self.map_noise, FourierEmbedding):
            emb = self.map_noise(noise_label)
        else:
            emb = positional_embedding(noise_label, self.noise_channels, endpoint=True)
        emb = emb.roll(self.noise_channels // 2, dims=1)  # the trained weights expect [sin, cos]
        if self.map_label is not None:
            assert class_label is not None, "a conditional network needs one-hot labels; zeros mean no label"
            # One-hot rows scaled to unit mean square.
            emb = emb + self.map_label(class_label * self.label_dim**0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
