"""Anybody's torch.nn.Module as a denoiser: named as module:factory, built by calling the factory, never pickled."""

import difflib
import importlib
import os
import pkgutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from disback_ray.algorithms.ranks import is_of_a_peer
from disback_ray.errors import ConfigError
from disback_ray.networks import predictions
from disback_ray.networks.preconditioning import Preconditioning, Scalings
from disback_ray.networks.predictions import scalings_of

Prediction = Literal["x0", "epsilon", "v"]
PREDICTIONS: dict[Prediction, predictions.Prediction] = {"x0": "sample", "epsilon": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class ModuleSpec:
    """A module that `factory(**kwargs)` returns, with forward(x, sigma, condition). kwargs: fit for JSON.

    x: [B, ...] = x_0 + σ ε; sigma: [B]; condition: int64 [B], -1 for no class, or None where there are no classes at all.
    prediction: what it gives: x_0, or ε or v of Eqs. (18)-(20) at the same x and σ.
    """

    module: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    prediction: Prediction = "x0"
    kind: Literal["own"] = "own"

    def build(self, shape: tuple[int, ...], *, classes: int) -> "ModuleDenoiser":
        """Imports the module and calls the factory: this runs somebody's code. Raises ConfigError."""
        return ModuleDenoiser(_made(self.module, self.kwargs), self.module, prediction=self.prediction, label_dim=classes)


class ModuleDenoiser(Preconditioning):
    """Somebody's network as D(x; σ): Eqs. (18)-(20) in the VE convention, α = 1 / √(1 + σ²)."""

    def __init__(self, network: nn.Module, named: str, *, prediction: Prediction, label_dim: int) -> None:
        super().__init__(network, label_dim=label_dim)
        self.named = named
        self.prediction = prediction
        self.sigma_min, self.sigma_max = 0.0, float("inf")

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """As Preconditioning's. Raises ConfigError where the module fails: it is its owner's to mend, not ours."""
        try:
            return super().forward(x, sigma, condition)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and is_of_a_peer(error)):
                raise  # no fault of the module
            said = f"forward(x {list(x.shape)}, sigma {list(sigma.shape)}, …) failed: {one_line(error)}"
            raise ConfigError(f"module: {self.named}: {said}") from error

    def scalings(self, sigma: Tensor) -> Scalings:
        converted = scalings_of(PREDICTIONS[self.prediction], sigma, sigma)
        return replace(converted, inside=torch.ones_like(sigma))  # it sees x itself, not x_vp

    def _labels(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        assert self.label_dim or condition is None, "labels were given to an unconditional network"
        if not self.label_dim:
            return None
        return torch.full((len(x),), -1, device=x.device) if condition is None else condition.to(x.device)


def factory_of(named: str) -> Callable[..., Any]:
    """What module:factory names, looked for on Python's path and then in the working directory. Raises ConfigError."""
    name, colon, factory = named.partition(":")
    if not (colon and factory.isidentifier() and all(part.isidentifier() for part in name.split("."))):
        raise ConfigError(f"module: {named!r}: expected module:factory, such as my_package.nets:make_teacher")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not take the place of a package
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ConfigError(f"module: {named}: no module is named {missing!r}{_nearest(missing, _modules(missing))}") from None
        raise ConfigError(f"module: {named}: importing {name} failed: {one_line(error)}") from error
    if not hasattr(module, factory):
        raise ConfigError(f"module: {named}: {name} has no {factory!r}{_nearest(factory, dir(module))}")
    found = getattr(module, factory)
    if not callable(found):
        raise ConfigError(f"module: {named}: {factory} is a {type(found).__name__}, which can't be called")
    return found  # type: ignore[no-any-return]


def _made(named: str, kwargs: dict[str, Any]) -> nn.Module:
    factory = factory_of(named)
    try:
        made = factory(**kwargs)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"module: {named}: calling it with {kwargs} failed: {one_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"module: {named}: gave a {type(made).__name__}, not a torch.nn.Module")
    if lazy := next((name for name, parameter in made.named_parameters() if is_lazy(parameter)), None):
        raise ConfigError(f"module: {named}: {lazy} has no shape yet: call a lazy module once in the factory")
    if not any(parameter.requires_grad for parameter in made.parameters()):
        raise ConfigError(
            f"module: {named}: gave a module without parameters that require gradients: nothing can be learnt in it"
        )
    for name, parameter in made.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize < 4:
            said = f"{name} is {str(parameter.dtype).removeprefix('torch.')}: give float32, which is what is trained"
            raise ConfigError(f"module: {named}: {said}; a role's precision is the recipe's (precision.teacher: bf16)")
    owners = defaultdict(list)
    for name, tensor in made.state_dict().items():
        owners[tensor.untyped_storage()._cdata].append(name)
    if shared := next((names for names in owners.values() if len(names) > 1), None):
        raise ConfigError(f"module: {named}: {shared[0]} and {shared[1]} share their memory: safetensors can't keep them")
    return made


@torch.enable_grad()
def try_out(denoiser: nn.Module, named: str, shape: tuple[int, ...]) -> None:
    """Two samples through somebody's module, as nothing else tells whether it fits. Raises ConfigError."""
    assert isinstance(denoiser, ModuleDenoiser)
    x, sigma = torch.zeros(2, *shape), torch.tensor([0.5, 2.0])
    condition = torch.tensor([-1, denoiser.label_dim - 1]) if denoiser.label_dim else None
    said = f"module: {named}: forward(x {list(x.shape)}, sigma [2], condition {'[2]' if denoiser.label_dim else 'None'})"
    try:
        out = denoiser.model(x, sigma, condition)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{said} failed: {one_line(error)}") from error
    if not isinstance(out, Tensor):
        raise ConfigError(f"{said} gave a {type(out).__name__}, not a tensor of the shape of x")
    if out.shape != x.shape:
        raise ConfigError(f"{said} gave the shape {list(out.shape)}, not that of x")
    if out.dtype != torch.float32:
        raise ConfigError(f"{said} gave {str(out.dtype).removeprefix('torch.')}, not float32 as x is")
    if not out.requires_grad:
        raise ConfigError(f"{said} gave a tensor without a graph: its parameters would learn nothing")
    if not torch.isfinite(out).all():
        raise ConfigError(f"{said} gave NaN or Inf for zeros")
    if x.any():
        raise ConfigError(f"{said} changed x itself: others use it as well")


def _modules(missing: str) -> Iterable[str]:
    """The names of the modules beside one that isn't there."""
    parent, _, _ = missing.rpartition(".")
    path = sys.modules[parent].__path__ if parent in sys.modules and hasattr(sys.modules[parent], "__path__") else None
    prefix = f"{parent}." if parent else ""
    return (f"{prefix}{found.name}" for found in pkgutil.iter_modules(path))


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """What somebody's code raised, for an error of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
