"""What an optimiser updates: the weights themselves, or float32 copies of them that live only while they are updated."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from disback_ray.algorithms import eager


class Masters:
    """The float32 tensor for each parameter that the optimiser updates.

    A float32 parameter that lies where updates are made is its own. Any other has a copy for the moment of its update, one after the
    other: so weights can be bfloat16, or the moments (which lie where their master does) in host memory, and the device never holds
    a second set. Rounding back to bfloat16 is stochastic, or updates smaller than half a step of it would all be lost.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, on_host: bool, key: str) -> None:
        """on_host: updates are made in host memory; key: what the rounding's random bits are drawn by, beside version and place."""
        self.weights = list(parameters)
        self.key = key
        homes = [torch.device("cpu") if on_host else weight.device for weight in self.weights]
        self.masters = [
            weight if _is_own(weight, home) else nn.Parameter(torch.empty(0, device=home))
            for weight, home in zip(self.weights, homes, strict=True)
        ]
        borrowed = [weight.numel() for weight, master in zip(self.weights, self.masters, strict=True) if master is not weight]
        # Copies between devices are fast only from pinned memory, and pinning is slow: two buffers serve every parameter.
        pinned = on_host and any(weight.is_cuda for weight in self.weights)
        self.buffers = torch.empty(2, max(borrowed), pin_memory=True) if pinned and borrowed else None

    @torch.no_grad()
    def step(self, optimiser: torch.optim.Optimizer, *, version: int) -> None:
        """One update of all weights that have a gradient. optimiser: of `masters`. No gradient is left."""
        lent: list[tuple[int, Tensor]] = []
        for index, weight in enumerate(self.weights):
            if self.masters[index] is not weight and weight.grad is not None:
                lent.append((index, weight.grad))
                weight.grad = None
        if len(lent) < len(self.weights):
            eager.step(optimiser)
        for weight in self.weights:
            weight.grad = None
        groups = optimiser.param_groups
        group_of = {master: group for group in groups for master in group["params"]} if lent else {}
        try:
            while lent:  # alone in the optimiser, which at each step looks through all that it has
                master = self.masters[lent[-1][0]]
                optimiser.param_groups = [group_of[master] | {"params": [master]}]
                self._step_one(optimiser, *lent.pop(), version)
        finally:
            optimiser.param_groups = groups

    def _step_one(self, optimiser: torch.optim.Optimizer, index: int, gradient: Tensor, version: int) -> None:
        weight, master = self.weights[index], self.masters[index]
        master.data = self._lend(weight, 0, master.device)
        master.grad = self._lend(gradient, 1, master.device)
        eager.step(optimiser)
        if weight.dtype == torch.float32:
            weight.copy_(master)
        else:
            seed = hashlib.blake2b(f"{self.key}/{version}/{index}".encode(), digest_size=8).digest()
            weight.copy_(stochastically_rounded(master.data, seed=int.from_bytes(seed)))
        master.grad, master.data = None, master.data.new_empty(0)

    def _lend(self, tensor: Tensor, buffer: int, home: torch.device) -> Tensor:
        if self.buffers is None:
            return tensor.detach().to(home, torch.float32, copy=True)
        return self.buffers[buffer, : tensor.numel()].view(tensor.shape).copy_(tensor.detach())


def _is_own(weight: nn.Parameter, home: torch.device) -> bool:
    """Whether it can be updated as it is."""
    return weight.dtype == torch.float32 and weight.device == home


def stochastically_rounded(values: Tensor, *, seed: int) -> Tensor:
    """float32 → bfloat16, up or down with the probabilities that make the mean exact (Gupta et al. 2015). values: any shape.

    A float32 with its lower 16 bits zero is a bfloat16: random bits are added to those, and what has not carried is cut off.
    """
    source = torch.Generator(values.device).manual_seed(seed % (1 << 63))
    bits = torch.randint(0, 1 << 16, values.shape, generator=source, device=values.device, dtype=torch.int32)
    raised = values.contiguous().view(torch.int32) + bits
    return (raised & -0x10000).view(torch.float32).bfloat16()
