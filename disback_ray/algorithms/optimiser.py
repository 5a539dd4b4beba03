"""One network with its optimiser: accumulates gradients over micro-batches, steps once a version, and can be saved whole."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from disback_ray.algorithms.noise import Positive
from disback_ray.errors import NonFiniteError, VersionError


@dataclass(frozen=True)
class OptimiserSettings:
    """clip: the gradient's largest norm, None for any; decay_after: from this share of the steps on the rate falls to 0 (cosine)."""

    lr: Positive
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    weight_decay: Annotated[float, Ge(0), Lt(math.inf)] = 0.0
    clip: Positive | None = None
    decay_after: Annotated[float, Ge(0), Le(1)] = 1.0

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        if self.kind == "sgd":
            return torch.optim.SGD(module.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        chosen = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return chosen(module.parameters(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def rate(self, progress: float) -> float:
        """The learning rate once this share of the steps is done, 0 … 1."""
        late = max(progress - self.decay_after, 0) / max(1 - self.decay_after, 1e-12)
        return self.lr * 0.5 * (1 + math.cos(math.pi * late))


class Learner:
    """A module that is trained by versions: each update adds one, and is made once however often it is asked for."""

    def __init__(self, module: nn.Module, settings: OptimiserSettings, *, updates: int, name: str) -> None:
        """updates: how many there will be (for the rate's decay); name: the role's, for errors."""
        self.module = module
        self.settings = settings
        self.updates = updates
        self.name = name
        self.version = 0
        self.gathered = 0
        self.last: dict[str, float] = {}
        self.optimiser = settings.build(module)
        self.optimiser.zero_grad(set_to_none=True)  # what another learner of the module left

    def require(self, version: int) -> None:
        """Raises VersionError unless these are the weights that were asked for."""
        if self.version != version:
            raise VersionError(f"{self.name} holds version {self.version} of its weights, asked for {version}")

    def gather(self, samples: int) -> None:
        """Notes that the gradients of so many samples have been added."""
        self.gathered += samples

    def update(self, version: int, *, samples: int) -> dict[str, float]:
        """From version to version + 1, with the gradients of exactly `samples` samples; returns {grad_norm, lr}.

        Asked again for an update that has been made, it returns what it returned then. Raises VersionError where the version or the
        number of samples is another, and NonFiniteError, before anything is changed, where the gradient has NaN or Inf.
        """
        if self.version == version + 1:
            return self.last
        self.require(version)
        if self.gathered != samples:
            raise VersionError(f"{self.name}: version {version} has the gradients of {self.gathered} of {samples} samples")
        limit = self.settings.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), limit))
        if not math.isfinite(norm):
            raise NonFiniteError(f"{self.name}: the gradient has NaN or Inf at version {version}: lower its lr, or set its clip")
        rate = self.settings.rate(version / self.updates)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.version, self.gathered = version + 1, 0
        self.last = {"grad_norm": norm, "lr": rate}
        return self.last

    def state(self) -> dict[str, Tensor]:
        """Weights, optimiser and version as flat tensors; to be taken between updates."""
        tensors = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, entries in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in entries.items() if value is not None}
        return tensors | {"version": torch.tensor(self.version)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what state() gave. Raises RuntimeError, KeyError or ValueError where it isn't this network's."""
        weights = {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("weights.")}
        self.module.load_state_dict(weights, strict=True)
        state: dict[int, dict[str, Tensor]] = {}
        for name in (name for name in tensors if name.startswith("optimiser.")):
            _, index, entry = name.split(".", 2)
            state.setdefault(int(index), {})[entry] = tensors[name]
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.optimiser.zero_grad(set_to_none=True)
        self.version, self.gathered = int(tensors["version"]), 0
