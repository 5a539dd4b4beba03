"""Networks of other people's checkpoints as settings. Each brings its own preconditioning: build() gives the whole denoiser."""

from dataclasses import dataclass
from typing import Any, Literal

from disback_ray.networks.consistency_unet import ConsistencyUNet
from disback_ray.networks.edm import build_edm
from disback_ray.networks.preconditioning import ConsistencyPrecond, Preconditioning

EDMNetwork = Literal["ddpmpp", "ncsnpp", "adm"]
Scalings = Literal["boundary", "standard"]


@dataclass(frozen=True)
class EDMSpec:
    """A network of EDM's. precond: the name of EDM's class; arguments: its constructor's, as build_edm takes them, fit for JSON."""

    precond: str
    arguments: dict[str, Any]
    kind: Literal["edm"] = "edm"

    def build(self, shape: tuple[int, ...], *, classes: int) -> Preconditioning:
        """Raises CheckpointError where the arguments are not those of EDM's networks."""
        return build_edm(self.precond, self.arguments)

    @property
    def network(self) -> EDMNetwork:
        """Which U-Net it is."""
        usual = "DhariwalUNet" if self.precond == "EDMPrecond" else "SongUNet"
        if self.arguments.get("model_type", usual) == "DhariwalUNet":
            return "adm"
        return "ncsnpp" if self.arguments.get("encoder_type") == "residual" else "ddpmpp"


@dataclass(frozen=True)
class ConsistencySpec:
    """The U-Net of openai's consistency models. scalings: 'boundary' for cd_*.pt and ct_*.pt, 'standard' for edm_*.pt."""

    scalings: Scalings
    arguments: dict[str, Any]  # ConsistencyUNet's, fit for JSON
    kind: Literal["consistency"] = "consistency"

    def build(self, shape: tuple[int, ...], *, classes: int) -> Preconditioning:
        return ConsistencyPrecond(ConsistencyUNet(**self.arguments), kind=self.scalings, label_dim=classes)
