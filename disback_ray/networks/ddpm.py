"""diffusers' UNet2DModel under a VP schedule: DDPM (Ho et al. 2020) and DDIM (Song et al. 2021), as a denoiser in the VE convention."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from disback_ray.algorithms.vp_schedule import DDIMSettings, VPSchedule
from disback_ray.hugging_face import diffusers
from disback_ray.networks.predictions import Prediction, VPTablePrecond


class PlainUNet(nn.Module):
    """F(x_vp, t, class ids) by a UNet2DModel."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W], time: [B] or [1], condition: int64 [B] where the network knows classes → like x."""
        out: Tensor = self.unet(x, time, class_labels=condition, return_dict=False)[0]
        return out


@dataclass(frozen=True)
class DDPMSpec:
    """A UNet2DModel with what its folder says of its noise. arguments: its constructor's, fit for JSON; ddim: how it is drawn from."""

    arguments: dict[str, Any]
    schedule: VPSchedule
    prediction: Prediction
    ddim: DDIMSettings
    kind: Literal["ddpm"] = "ddpm"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, dict):  # as JSON has it
            betas = self.schedule["betas"]
            schedule = VPSchedule(**self.schedule | {"betas": None if betas is None else tuple(betas)})
            object.__setattr__(self, "schedule", schedule)
        if isinstance(self.ddim, dict):
            object.__setattr__(self, "ddim", DDIMSettings(**self.ddim))

    def build(self, shape: tuple[int, ...], *, classes: int) -> VPTablePrecond:
        """Raises ConfigError without diffusers; ValueError and what else diffusers raises where the arguments are not its network's."""
        unet = diffusers().UNet2DModel(**self.arguments)
        learned = self.arguments.get("time_embedding_type") == "learned"
        return VPTablePrecond(
            PlainUNet(unet),
            schedule=self.schedule,
            prediction=self.prediction,
            ddim=self.ddim,
            whole_times=learned,
            label_dim=classes,
        )
