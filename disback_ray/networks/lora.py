"""LoRA on a frozen denoiser (Hu et al. 2022), by PEFT: θ' and s_φ as adapters of a few MB on the teacher's own weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from disback_ray.algorithms.noise import Positive
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.hugging_face import peft
from disback_ray.networks.layers import Conv2d
from disback_ray.networks.spec import Width

MARK = ".lora_"
"""In the names of all of an adapter's weights, and of no others."""


@dataclass(frozen=True)
class LoRA:
    """W + (alpha / rank) B A in place of W, of which A and B are trained. alpha: None for the rank, so that the factor is 1.

    targets: 'auto' for every linear and convolutional layer, or what the names of those end with, such as to_q or affine.
    """

    rank: Width = 64
    alpha: Positive | None = None
    targets: Literal["auto"] | Annotated[tuple[str, ...], MinLen(1)] = "auto"

    def identity(self, base: str) -> dict[str, Any]:
        """What a file of its weights says about itself. base: the SHA-256 of the frozen weights."""
        return {**asdict(self), "targets": self.targets if self.targets == "auto" else list(self.targets), "base": base}


def add_lora(denoiser: nn.Module, lora: LoRA) -> None:
    """Freezes the denoiser, and puts a new adapter on it that changes nothing as yet: B = 0, A always the same.

    Raises ConfigError where PEFT is not installed, or a target names no layer.
    """
    config = peft().LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=_layers(denoiser, lora), lora_dropout=0.0, bias="none"
    )
    config._register_custom_module({Conv2d: _adapted_convolution()})  # PEFT's own way for layers that it doesn't know
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        peft().inject_adapter_in_model(config, denoiser)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(MARK in name)
    denoiser.eval()


def adapter_of(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights by name, sharing memory with it."""
    return {name: parameter.detach() for name, parameter in denoiser.named_parameters() if MARK in name}


def load_adapter(denoiser: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Gives the denoiser's adapter these weights. Raises CheckpointError where a name or a shape is not its own."""
    own = adapter_of(denoiser)
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(f"{where}: the adapter doesn't fit: {len(wrong)} weights are missing or unknown, first {wrong[0]}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            raise CheckpointError(f"{where}: the adapter doesn't fit: {name} has the shape {shapes}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _layers(denoiser: nn.Module, lora: LoRA) -> list[str]:
    inside = [name for name, module in denoiser.named_modules() if isinstance(module, nn.MultiheadAttention)]
    possible = [
        name
        for name, module in denoiser.named_modules()
        if _can_be_adapted(module) and not any(name.startswith(f"{other}.") for other in inside)  # whose forward nobody calls
    ]
    if not possible:
        raise ConfigError("lora: the network has no linear or convolutional layers that an adapter could be put on")
    if lora.targets == "auto":
        return possible
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in possible):
            raise ConfigError(
                f"lora.targets: no layer's name ends with {target!r}; names are such as {possible[len(possible) // 2]}"
            )
    return [name for name in possible if any(f".{name}".endswith(f".{target}") for target in lora.targets)]


def _can_be_adapted(module: nn.Module) -> bool:
    if isinstance(module, Conv2d):
        return module.weight is not None
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


@lru_cache
def _adapted_convolution() -> type[nn.Module]:
    """The class for our convolution, made once PEFT is there."""
    from peft.tuners.lora import LoraLayer

    class AdaptedConv2d(nn.Module, LoraLayer):
        """Our convolution with its adapter: A sees what it sees, resampled as it is; B mixes A's channels."""

        def __init__(self, base_layer: Conv2d, adapter_name: str, *, r: int, lora_alpha: float, **_: Any) -> None:
            super().__init__()
            LoraLayer.__init__(self, base_layer)
            self.r[adapter_name], self.lora_alpha[adapter_name], self.scaling[adapter_name] = r, lora_alpha, lora_alpha / r
            sees, mixes = (
                base_layer.narrowed(r),
                nn.Conv2d(r, self._get_in_out_features(base_layer)[1], kernel_size=1, bias=False),
            )
            assert sees.weight is not None
            nn.init.kaiming_uniform_(sees.weight, a=5**0.5)  # as PEFT does for the layers that it knows
            nn.init.zeros_(mixes.weight)
            self.lora_A[adapter_name], self.lora_B[adapter_name] = sees, mixes
            self._active_adapter = adapter_name
            self.set_adapter(self.active_adapters)

        def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
            assert isinstance(module, Conv2d)
            assert module.weight is not None
            return module.weight.shape[1], module.weight.shape[0]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.base_layer(x)
            for name in self.active_adapters:
                out = out + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
            return out

    return AdaptedConv2d
