"""One network with its optimiser: accumulates gradients over micro-batches, steps once a version, and can be saved whole."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from disback_ray.algorithms.masters import Masters
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.ranks import ALONE, Ranks, full_tensor
from disback_ray.errors import NonFiniteError, VersionError


def trained(module: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes: the whole state dict, or, where a part is frozen (LoRA), the rest alone."""
    parameters = dict(module.named_parameters())
    if all(parameter.requires_grad for parameter in parameters.values()):
        return module.state_dict()
    return {name: parameter.detach() for name, parameter in parameters.items() if parameter.requires_grad}


class Learner:
    """A module that is trained by versions: each update adds one, and is made once however often it is asked for."""

    def __init__(
        self, module: nn.Module, settings: OptimiserSettings, *, updates: int, name: str, seed: int = 0, ranks: Ranks = ALONE
    ) -> None:
        """updates: how many there will be (for the rate's decay); name: the role's, for errors; seed: the run's, for rounding.

        ranks: those that train the module together, each with its part of the samples.

        Raises ConfigError where what the optimiser needs is not installed.
        """
        self.module = module
        self.settings = settings
        self.updates = updates
        self.name = name
        self.ranks = ranks
        self.version = 0
        self.gathered = 0
        self.last: dict[str, float] = {}
        learns = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.masters = Masters(learns, on_host=settings.offload, key=f"{seed}/{name}")
        self.optimiser = settings.build(self.masters.masters)
        module.zero_grad(set_to_none=True)  # what another learner of the module left

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
        if self.gathered * self.ranks.count != samples:
            raise VersionError(
                f"{self.name}: version {version} has the gradients of {self.gathered} of {samples // self.ranks.count} samples"
            )
        self.ranks.sum_gradients(self.masters.weights)
        norm = clip_gradients(self.masters.weights, self.settings.clip or math.inf)
        if not math.isfinite(norm):
            raise NonFiniteError(f"{self.name}: the gradient has NaN or Inf at version {version}: lower its lr, or set its clip")
        rate = self.settings.rate(version / self.updates, update=version)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.masters.step(self.optimiser, version=version)
        self.version, self.gathered = version + 1, 0
        self.last = {"grad_norm": norm, "lr": rate}
        return self.last

    def skip(self, version: int) -> None:
        """From version to version + 1 with the weights that there are. Asked again, it does nothing. Raises VersionError."""
        if self.version != version + 1:
            self.require(version)
            self.version, self.last = version + 1, {}

    def state(self) -> dict[str, Tensor]:
        """Trained weights, optimiser and version as flat tensors; to be taken between updates."""
        tensors = {f"weights.{name}": tensor for name, tensor in trained(self.module).items()}
        for index, master in enumerate(self.masters.masters):
            entries = self.optimiser.state.get(master, {}).items()
            tensors |= {f"optimiser.{index}.{name}": _alone(name, value) for name, value in entries if value is not None}
        return self.ranks.whole(tensors) | {"version": torch.tensor(self.version)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what state() gave. Raises RuntimeError, KeyError or ValueError where it isn't this network's."""
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(("weights.", "optimiser.", "version"))}
        tensors = self.ranks.cut(own, self.module)
        weights = {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("weights.")}
        load_trained(self.module, weights)
        state: dict[int, dict[str, Tensor | int]] = {}
        for name in (name for name in tensors if name.startswith("optimiser.")):
            _, index, entry = name.split(".", 2)
            value = tensors[name]
            counts = entry == "step" and not value.is_floating_point()  # bitsandbytes counts in Python, torch in a tensor
            state.setdefault(int(index), {})[entry] = int(value) if counts else value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.module.zero_grad(set_to_none=True)
        self.version, self.gathered = int(tensors["version"]), 0


def _alone(name: str, value: Tensor | int) -> Tensor:
    """bitsandbytes has one table of 256 numbers for all of its states, and files hold no tensor twice."""
    tensor = torch.as_tensor(value)
    return tensor.clone() if name.startswith("qmap") else tensor


def load_trained(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Takes back what trained() gave. Raises RuntimeError where names or shapes differ."""
    expected = trained(module)
    if len(expected) == len(module.state_dict()):
        module.load_state_dict(weights, strict=True)
        return
    if wrong := sorted(expected.keys() ^ weights.keys()):
        raise RuntimeError(f"{len(wrong)} weights are missing or unknown, the first is {wrong[0]}")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise RuntimeError(f"size mismatch for {name}: {tuple(weights[name].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(weights[name])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scales the gradients down to a common norm of at most `limit`; returns the norm before that."""
    parameters = list(parameters)
    if all(parameter.dtype == torch.float32 for parameter in parameters):
        return float(full_tensor(nn.utils.clip_grad_norm_(parameters, limit)))
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.stack([torch.linalg.vector_norm(each, dtype=torch.float32) for each in gradients]).norm())
    if limit < norm < float("inf"):
        for each in gradients:
            each.mul_(limit / norm)
    return norm
