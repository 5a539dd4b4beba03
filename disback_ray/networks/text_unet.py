"""The U-Nets of Stable Diffusion (diffusers' UNet2DConditionModel), told their prompts by number."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.hugging_face import diffusers, peft
from disback_ray.networks.predictions import Prediction, VPTablePrecond
from disback_ray.networks.prompt_table import UNCONDITIONAL, PromptTable
from disback_ray.storage import Folder

LORA_MARK = ".lora_"
"""In the names of all of LoRA's weights."""
UNET = "model.unet."
"""What a weight's name in the pipeline begins with in the denoiser."""


@dataclass(frozen=True)
class TextUNetSpec:
    """A U-Net of Stable Diffusion as settings. config: diffusers' own; ddim: how it is drawn from; pixels: an image's side.

    pipeline: the URI of the pipeline's folder, which has the VAE and the text encoders; prompts: that of the encoded prompts.
    lora: LoraConfig's arguments, of a student of which only LoRA's layers are trained.
    """

    config: dict[str, Any]
    schedule: VPSchedule
    prediction: Prediction
    ddim: DDIMSettings
    pixels: int
    pipeline: str
    prompts: str
    lora: dict[str, Any] | None = None
    kind: Literal["text-unet"] = "text-unet"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, dict):  # as JSON has it
            betas = self.schedule["betas"]
            schedule = VPSchedule(**self.schedule | {"betas": None if betas is None else tuple(betas)})
            object.__setattr__(self, "schedule", schedule)
        if isinstance(self.ddim, dict):
            object.__setattr__(self, "ddim", DDIMSettings(**self.ddim))

    def build(self, shape: tuple[int, ...], *, classes: int) -> VPTablePrecond:
        """With fresh weights; those that aren't to be trained know it. It takes prompts, also where it has been told none yet."""
        unet = diffusers().UNet2DConditionModel.from_config(self.config)
        if self.lora is not None:
            unet = peft().inject_adapter_in_model(peft().LoraConfig(**self.lora), unet)
            for name, parameter in unet.named_parameters():
                parameter.requires_grad_(LORA_MARK in name)
        network = TextUNet(unet, pixels=self.pixels, prompts=Folder(self.prompts))
        return VPTablePrecond(
            network, schedule=self.schedule, prediction=self.prediction, ddim=self.ddim, label_dim=max(classes, 1)
        )


class TextUNet(nn.Module):
    """F(x_vp, t, prompt number) → ε or v. pixels: the image's side, for SDXL's micro-conditioning; prompts: the table's folder."""

    def __init__(self, unet: nn.Module, *, pixels: int, prompts: Folder) -> None:
        super().__init__()
        self.unet = unet
        self.pixels = pixels
        self.prompts = prompts
        self._table: PromptTable | None = None

    @property
    def table(self) -> PromptTable:
        """Opened when first asked for. Raises CheckpointError where it is not whole."""
        self._table = self._table or PromptTable(self.prompts)
        return self._table

    def tell(self, prompts: Folder) -> None:
        """Lets it hear another table's prompts."""
        self.prompts, self._table = prompts, None

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: [B, 4, H, W] latents, time: [B] or [1], condition: int64 [B] prompt numbers, -1 or None for none → like x."""
        numbers = torch.full((len(x),), UNCONDITIONAL) if condition is None else condition
        found = self.table.rows(numbers)
        added: dict[str, Tensor] = {}
        if found.pooled is not None:
            # SDXL (Podell et al. 2023, Sec. 2.2): the original size, no cropping, the size that is wanted.
            sizes = x.new_tensor([self.pixels, self.pixels, 0, 0, self.pixels, self.pixels])
            added = {"text_embeds": found.pooled.to(x), "time_ids": sizes.expand(len(x), 6)}
        out: Tensor = self.unet(x, time, encoder_hidden_states=found.tokens.to(x), added_cond_kwargs=added, return_dict=False)[0]
        return out
