"""One small denoiser of each kind that we have, and one of diffusers'."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from disback_ray.hugging_face import diffusers
from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.mlp import ResNetMLP
from disback_ray.networks.preconditioning import ConsistencyPrecond, EDMPrecond
from disback_ray.tiny import EDM


class Unwrapped(nn.Module):
    """diffusers' U-Net with our networks' signature."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = diffusers().UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
        )  # fmt: skip

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor = self.unet(x, time, return_dict=False)[0]
        return out


def _consistency() -> nn.Module:
    network = ConsistencyUNet(
        model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_factors=(2,), head_channels=32, scale_shift=True
    )
    return ConsistencyPrecond(network)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "ddpmpp": lambda: build_edm("EDMPrecond", EDM["ddpmpp"]),
    "ncsnpp": lambda: build_edm("VEPrecond", EDM["ncsnpp"]),
    "adm": lambda: build_edm("EDMPrecond", EDM["adm"]),
    "consistency": _consistency,
    "resnet-mlp": lambda: EDMPrecond(ResNetMLP(dimension=2, width=32, blocks=2), sigma_data=1.4),
    "diffusers": lambda: EDMPrecond(Unwrapped()),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Callable[[], nn.Module]:
    """The same denoiser each time, none of whose branches is nearly nothing, as a fresh one's are."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            denoiser = KINDS[kind]().eval()
            for parameter in denoiser.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_normal_(parameter, gain=0.7)
        return denoiser

    return build


@pytest.fixture
def noisy(kind: str) -> tuple[Tensor, Tensor]:
    """x_t and σ, of four samples at levels from small to large."""
    shape = (2,) if kind == "resnet-mlp" else (3, 8, 8)
    sigma = torch.tensor([0.05, 0.3, 1.5, 10.0])
    x0, noise = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(1))
    return 0.5 * x0 + sigma.reshape(-1, *[1] * len(shape)) * noise, sigma
