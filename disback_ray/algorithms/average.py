"""The moving average of weights that samples are drawn with."""

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a module's weights; decay 0 follows them exactly.

    The decay is short at first, min(decay, (1 + i) / (10 + i)) at update i, so that the start is soon forgotten.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, index: int) -> None:
        """Takes the module's present weights in, for the index-th time."""
        decay = min(self.decay, (1 + index) / (10 + index))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, their names marked, to be saved beside a Learner's."""
        return {f"average.{name}": tensor for name, tensor in self.weights.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what state() gave. Raises KeyError or RuntimeError where it isn't this module's."""
        for name, tensor in self.weights.items():
            tensor.copy_(tensors[f"average.{name}"])
