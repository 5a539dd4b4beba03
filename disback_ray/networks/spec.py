"""Networks as settings: what a recipe names, what a checkpoint's JSON holds, and what each role builds in its own process."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, asdict, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

import torch
from annotated_types import Ge, Le, Lt, MinLen
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from disback_ray.algorithms.noise import Positive
from disback_ray.algorithms.vp_schedule import VPSchedule
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.networks.ddpm import DDPMSpec
from disback_ray.networks.imported import ConsistencySpec, EDMSpec
from disback_ray.networks.mlp import MLP, ResNetMLP
from disback_ray.networks.module import ModuleSpec, try_out
from disback_ray.networks.preconditioning import EDMPrecond, Preconditioning
from disback_ray.networks.song_unet import SongUNet
from disback_ray.networks.text_unet import TextUNetSpec

Count = Annotated[int, Ge(1), Le(10**9)]
Width = Annotated[int, Ge(1), Le(2**14)]
Depth = Annotated[int, Ge(1), Le(1000)]
Samples = Annotated[int, Ge(1), Le(2**24)]
Shape = Annotated[tuple[Width, ...], MinLen(1)]
Classes = Annotated[int, Ge(0), Le(10**6)]
"""The upper ends are far beyond what any machine holds: a slip of the keyboard is said at once, not after hours."""


@dataclass(frozen=True)
class DDPMppSpec:
    """DDPM++ U-Net (Song et al. 2021, in EDM's configuration) for images."""

    channels: Width = 32
    multipliers: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2)
    blocks: Depth = 1
    attention: tuple[Count, ...] = ()
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    kind: Literal["ddpmpp"] = "ddpmpp"

    def build(self, shape: tuple[int, ...], *, classes: int) -> nn.Module:
        """Raises ValueError where the settings don't fit the images."""
        halvings = len(self.multipliers) - 1
        if shape[-1] % 2**halvings:
            raise ValueError(f"{len(self.multipliers)} multipliers halve the side {halvings} times, and {shape[-1]} can't be")
        return SongUNet(
            img_resolution=shape[-1],
            in_channels=shape[0],
            out_channels=shape[0],
            label_dim=classes,
            model_channels=self.channels,
            channel_mult=self.multipliers,
            num_blocks=self.blocks,
            attn_resolutions=self.attention,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class ResNetMLPSpec:
    """Residual MLP for points (App. E.1's teacher). octaves: of Fourier features, for narrow modes."""

    width: Width = 128
    blocks: Depth = 4
    octaves: Annotated[int, Ge(0), Le(8)] = 0
    kind: Literal["resnet-mlp"] = "resnet-mlp"

    def build(self, shape: tuple[int, ...], *, classes: int) -> nn.Module:
        return ResNetMLP(dimension=shape[0], width=self.width, blocks=self.blocks, octaves=self.octaves, label_dim=classes)


@dataclass(frozen=True)
class MLPSpec:
    """Plain MLP for points (App. E.1's student)."""

    width: Width = 96
    hidden_layers: Depth = 3
    kind: Literal["mlp"] = "mlp"


Spec = TypeVar("Spec")
NetworkSpec = DDPMppSpec | ResNetMLPSpec | EDMSpec | ConsistencySpec | ModuleSpec | DDPMSpec | TextUNetSpec
NETWORKS: dict[str, type[NetworkSpec]] = {
    "ddpmpp": DDPMppSpec,
    "resnet-mlp": ResNetMLPSpec,
    "edm": EDMSpec,
    "consistency": ConsistencySpec,
    "own": ModuleSpec,
    "ddpm": DDPMSpec,
    "text-unet": TextUNetSpec,
}


@dataclass(frozen=True)
class DenoiserSpec:
    """A preconditioned network D(x, σ, condition). shape: one sample's, such as (1, 8, 8); classes: 0 where unconditional.

    sigma_data: the data's standard deviation, of EDM's preconditioning and of the weights in Eq. (5); None for the weights of DDPM,
    where the network brings its own preconditioning.
    """

    network: NetworkSpec
    shape: Shape
    classes: Classes
    sigma_data: Positive | None

    @property
    def schedule(self) -> VPSchedule | None:
        """The table of noise levels that the network knows; None: it knows any."""
        return self.network.schedule if isinstance(self.network, DDPMSpec | TextUNetSpec) else None

    def build(self, *, seed: int = 0) -> nn.Module:
        """The denoiser with the initial weights that `seed` gives, in `eval` mode: no dropout, so that a step can be replayed.

        Raises ConfigError where it is somebody's module, and that can't be imported or built.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.network.build(self.shape, classes=self.classes)
        if isinstance(network, Preconditioning):
            return network.eval()
        assert self.sigma_data is not None, "only a network with its own preconditioning has none"
        return EDMPrecond(network, sigma_data=self.sigma_data, label_dim=self.classes).eval()

    def sketch(self) -> nn.Module:
        """The denoiser without numbers, for what its layers are; somebody's module with them. Raises what `build` raises."""
        with torch.device("cpu" if self.module else "meta"):  # what a factory computes may want numbers
            return self.build()

    def check(self) -> None:
        """Raises ConfigError where the network can't be built for such samples, or somebody's module gives something else."""
        if isinstance(self.network, ModuleSpec):
            try_out(self.build(), self.network.module, self.shape)
            return
        try:
            with torch.device("meta"):
                self.network.build(self.shape, classes=self.classes)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(f"can't be built for samples of shape {self.shape}: {error}") from None

    @property
    def module(self) -> str | None:
        """The module:factory whose code building it runs; None where all of it is ours."""
        return self.network.module if isinstance(self.network, ModuleSpec) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(settings: dict[str, Any]) -> "DenoiserSpec":
        """Raises CheckpointError where the settings are not a denoiser's."""
        with _told("a denoiser"):
            network = _checked(NETWORKS[settings["network"]["kind"]], settings["network"])
            spec = _checked(DenoiserSpec, _own(settings, fields(DenoiserSpec), network))
        dimensions = {ResNetMLPSpec: 1, ModuleSpec: len(spec.shape)}.get(type(network), 3)
        if len(spec.shape) != dimensions:
            raise CheckpointError(
                f"not the settings of a denoiser: its samples are of shape {spec.shape}, not {dimensions} numbers"
            )
        return spec


class OneStep(nn.Module):
    """A denoiser as a one-step generator: G(z, condition) = D(σ_init z, σ_init, condition). z: [B, ...] ~ N(0, I).

    σ_init is rounded to a level that the denoiser knows, where it knows a table: then its time is a whole one. unit_noise: a VP
    network itself is to get z, which is x_vp / α_t = √(1 + σ²) z here, as if there were noise and no data (the authors' SDXL).
    """

    def __init__(self, denoiser: nn.Module, *, sigma_init: float, unit_noise: bool = False) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma_init = sigma_init
        if isinstance(denoiser, Preconditioning):
            self.sigma_init = float(denoiser.round_sigma(torch.tensor(sigma_init, dtype=torch.float64, device="cpu")))
        self.scale = math.sqrt(1 + self.sigma_init**2) if unit_noise else self.sigma_init

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        sigma = torch.full((len(z),), self.sigma_init, device=z.device)
        x0: Tensor = self.denoiser(self.scale * z, sigma, condition)
        return x0


class Direct(nn.Module):
    """A plain network as a one-step generator: G(z) = F(z), for points."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is None, "a plain MLP takes no condition"
        x0: Tensor = self.network(z)
        return x0


@dataclass(frozen=True)
class GeneratorSpec:
    """G_stu: a denoiser used at one σ, or a plain MLP. shape: one sample's; classes: 0 where unconditional; unit_noise: see OneStep."""

    network: DenoiserSpec | MLPSpec
    shape: Shape
    classes: Classes
    sigma_init: Positive
    unit_noise: bool = False

    def build(self, *, seed: int = 0) -> nn.Module:
        """The generator with the initial weights that `seed` gives, in `eval` mode."""
        if isinstance(self.network, DenoiserSpec):
            return OneStep(self.network.build(seed=seed), sigma_init=self.sigma_init, unit_noise=self.unit_noise).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MLP(dimension=self.shape[0], width=self.network.width, hidden_layers=self.network.hidden_layers)
        return Direct(network).eval()

    @property
    def module(self) -> str | None:
        """The module:factory whose code building it runs; None where all of it is ours."""
        return self.network.module if isinstance(self.network, DenoiserSpec) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(settings: dict[str, Any]) -> "GeneratorSpec":
        """Raises CheckpointError where the settings are not a generator's."""
        with _told("a generator"):
            plain = settings["network"].get("kind") == "mlp"
            network = _checked(MLPSpec, settings["network"]) if plain else DenoiserSpec.from_json(settings["network"])
            spec = _checked(GeneratorSpec, _own(settings, fields(GeneratorSpec), network))
        fits = (
            len(spec.shape) == 1
            if isinstance(network, MLPSpec)
            else (spec.shape, spec.classes) == (network.shape, network.classes)
        )
        if not fits:
            raise CheckpointError(f"not the settings of a generator: {spec.shape}, {spec.classes} classes: not its network's")
        return spec


def _checked(kind: type[Spec], settings: dict[str, Any]) -> Spec:
    """What pydantic makes of JSON, with each field's type and bounds."""
    return TypeAdapter(kind).validate_python(settings)


def _own(settings: dict[str, Any], known: tuple[Field[Any], ...], network: Any) -> dict[str, Any]:
    """Without what else a file says beside them, of its weights."""
    return {field.name: settings[field.name] for field in known if field.name in settings} | {"network": network}


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises CheckpointError in place of all that settings of another kind may raise, in one line."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        else:
            reason = str(error)
        raise CheckpointError(f"not the settings of {what} that this version knows ({' '.join(reason[:200].split())})") from None
