"""The judge of generated digits: a small classifier of the real ones, whose features and answers measure the others.

It stands in for the Inception network of the usual Fréchet distance, which knows photographs and wants a download.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from disback_ray.data.digits import Digits, load_digits
from disback_ray.errors import CheckpointError
from disback_ray.storage import digest

FEATURES = 64
EPOCHS, BATCH, RATE = 20, 64, 2e-3
NOISE = 0.2  # std, added while training: generated digits are a little noisy, and that alone should not unsettle it


class DigitJudge:
    """A convolutional classifier of 8×8 digits; one seed gives one judge, whatever else the process does."""

    def __init__(self, network: nn.Sequential) -> None:
        self._network = network.eval()

    @classmethod
    def train(cls, seed: int = 0, *, digits: Digits | None = None) -> DigitJudge:
        """Train on `digits`, by default all of scikit-learn's: Adam, linear decay to zero, a few seconds on one core."""
        digits = load_digits() if digits is None else digits
        random = torch.Generator().manual_seed(seed)
        with _one_thread():
            network = _initialised(_network(), random)
            optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
            steps = EPOCHS * (len(digits) // BATCH)
            decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
            for index in _batches(len(digits), random):
                images = digits.images[index]
                noisy = images + NOISE * torch.randn(images.shape, generator=random)
                loss = functional.cross_entropy(network(noisy), digits.labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                decay.step()
        return cls(network)

    def features(self, images: Tensor) -> np.ndarray:
        """The last hidden layer, after its ReLU: float32 [N, 64], ≥ 0. images: float32 [N, 1, 8, 8], in [-1, 1]."""
        return self._run(self._network[:-1], images).numpy()

    def classify(self, images: Tensor) -> Tensor:
        """The digit that each image most resembles: int64 [N], 0–9. images: float32 [N, 1, 8, 8], in [-1, 1]."""
        return self._run(self._network, images).argmax(dim=1)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images recognised as their labels, 0–1. labels: int64 [N]."""
        return float((self.classify(images) == labels.cpu()).double().mean())

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return digest(self._network.state_dict())

    def to_bytes(self) -> bytes:
        """The weights as a safetensors file."""
        return safetensors.torch.save(self._network.state_dict())

    @classmethod
    def from_bytes(cls, data: bytes) -> DigitJudge:
        """The judge that `to_bytes` wrote. Raises CheckpointError where it holds anything else."""
        network = _network()
        try:
            network.load_state_dict(safetensors.torch.load(data), assign=True)
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"not the weights of a digit judge ({reason}): delete the file, it is trained again") from error
        return cls(network)

    @staticmethod
    @torch.inference_mode()
    def _run(network: nn.Module, images: Tensor) -> Tensor:
        with _one_thread():
            return torch.cat([network(part) for part in images.detach().cpu().float().split(512)])


def _network() -> nn.Sequential:
    with torch.device("meta"):  # no weights yet: torch's own would be drawn from the global generator
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 4 * 4, FEATURES), nn.ReLU(),
            nn.Linear(FEATURES, 10),
        )  # fmt: skip


def _initialised(network: nn.Sequential, random: torch.Generator) -> nn.Sequential:
    """Weights uniform within ± 1/√fan-in, torch's own default, and zero biases; here from a generator of its own."""
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=random)
    return network


def _batches(size: int, random: torch.Generator) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        order = torch.randperm(size, generator=random)
        yield from order[: size - size % BATCH].split(BATCH)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of a sum depends on the number of threads; one thread gives one result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
