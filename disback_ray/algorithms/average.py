"""The moving average of weights that samples are drawn with."""

import torch
from torch import Tensor, nn

from disback_ray.algorithms.learner import trained
from disback_ray.algorithms.ranks import ALONE, Ranks


class MovingAverage:
    """Exponential moving average of a module's weights; decay 0 follows them exactly, and is no copy of them.

    The decay is short at first, min(decay, (1 + i) / (ramp + i)) at update i, so that the start is soon forgotten: until then the
    average is one of the last i / (ramp - 1) updates. It is float32 also where the weights are bfloat16, whose steps are larger than
    what an update adds.
    """

    def __init__(
        self, module: nn.Module, *, decay: float, ramp: int = 10, home: torch.device | None = None, ranks: Ranks = ALONE,
        whole: bool = True,
    ) -> None:  # fmt: skip
        """home: where the average lies; None for beside the weights. whole: of all weights; else of the trained ones alone."""
        self.module = module
        self.decay = decay
        self.ramp = ramp
        self.ranks = ranks
        self.whole = whole
        weights = self._present()
        self.weights: dict[str, Tensor] = {name: _wide(tensor, home) for name, tensor in weights.items()} if decay else weights

    def _present(self) -> dict[str, Tensor]:
        return self.module.state_dict() if self.whole else trained(self.module)

    @torch.no_grad()
    def update(self, index: int) -> None:
        """Takes the module's present weights in, for the index-th time."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + index) / (self.ramp + index))
        for name, tensor in self._present().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor.to(self.weights[name]), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, their names marked, to be saved beside a Learner's; none where they are the Learner's."""
        marked = {f"average.{name}": tensor for name, tensor in self.weights.items()}
        return self.ranks.whole(marked) if self.decay else {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what state() gave. Raises KeyError or RuntimeError where it isn't this module's."""
        if self.decay:
            saved = self.ranks.cut({name: each for name, each in tensors.items() if name.startswith("average.")}, self.module)
            for name, tensor in self.weights.items():
                tensor.copy_(saved[f"average.{name}"])


def _wide(tensor: Tensor, home: torch.device | None) -> Tensor:
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.to(home or tensor.device, dtype, copy=True)
