"""Inception networks as feature extractors, from files: as clean-fid runs them, without its downloads."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from disback_ray.device import best_device
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.kinds import FeatureKind
from disback_ray.evaluation.resizers import Mode, resized
from disback_ray.fetching import Fetched
from disback_ray.teachers.torch_file import read_state_dict
from disback_ray.torchvision_shim import declare_missing_operators

AT_ONCE = 64
_BUILDING = threading.Lock()


class Inception:
    """Features of one of clean-fid's modes. kind: what they are; its dimensions are found by trying the network on one image."""

    def __init__(self, weights: Fetched, *, mode: Mode) -> None:
        """weights: a TorchScript module as NVIDIA's `inception-2015-12-05.pt` (clean, legacy_tensorflow), or the state dict
        `pt_inception-2015-12-05-6726825d.pth` (legacy_pytorch). Raises CheckpointError where they are another thing.
        """
        self.device = best_device()
        self.mode: Mode = mode
        self._network = (
            _state_dict(weights) if mode == "legacy_pytorch" else _torchscript(weights, inside=mode == "legacy_tensorflow")
        )
        self.kind = FeatureKind("inception", weights.sha256, mode, 0)
        self.kind = FeatureKind("inception", weights.sha256, mode, self._probe(weights.name))

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [B, D]. images: uint8 [H, W, 1 or 3] each. Raises ConfigError for other images."""
        pixels = resized([_in_colour(image) for image in images], self.mode)
        parts = []
        for _, alike in groupby(pixels, key=lambda x: x.shape):  # they differ in size only where the network resizes
            parts += [self._network(part.to(self.device)).float().cpu() for part in torch.stack(list(alike)).split(AT_ONCE)]
        return torch.cat(parts).numpy()

    def _probe(self, name: str) -> int:
        try:
            found = self.features([np.zeros((299, 299, 3), np.uint8)])
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise CheckpointError(f"{name}: no Inception network of mode {self.mode} ({reason[:160]})") from None
        return int(found.shape[1])


def _torchscript(weights: Fetched, *, inside: bool) -> Callable[[Tensor], Tensor]:
    """clean-fid's InceptionV3W over a module that is already in memory. inside: the network resizes and scales the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated TorchScript; NVIDIA's file is one
        try:
            base = torch.jit.load(io.BytesIO(weights.data), map_location=best_device()).eval()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{weights.name}: no TorchScript module ({str(error).splitlines()[0][:160]})") from None
    if not hasattr(base, "layers"):
        raise CheckpointError(
            f"{weights.name}: a TorchScript module without `layers`: not of the interface of NVIDIA's Inception"
        )

    def run(x: Tensor) -> Tensor:
        found: Tensor = base(x, return_features=True) if inside else base.layers((x - 128) / 128)
        return found.reshape(len(x), -1)

    return run


def _state_dict(weights: Fetched) -> Callable[[Tensor], Tensor]:
    """clean-fid's port of pytorch-fid's network, given its weights in place of the address that it would load them from."""
    try:
        tensors = read_state_dict(io.BytesIO(weights.data))
    except CheckpointError as error:
        raise CheckpointError(f"{weights.name}: no state dict ({error})") from None
    declare_missing_operators()
    with _BUILDING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it builds torchvision's network with arguments that are deprecated
        from cleanfid import inception_pytorch as port

        stock = port.load_state_dict_from_url
        port.load_state_dict_from_url = lambda *_, **__: tensors
        try:
            network: nn.Module = port.InceptionV3(output_blocks=[3], resize_input=False)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise CheckpointError(f"{weights.name}: not the weights of pytorch-fid's Inception ({reason[:160]})") from None
        finally:
            port.load_state_dict_from_url = stock
    network = network.eval().to(best_device())

    def run(x: Tensor) -> Tensor:
        (found,) = network(x / 255)
        return torch.as_tensor(found).flatten(1)

    return run


def _in_colour(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ConfigError(f"an image has shape {image.shape} of {image.dtype}: expected uint8 [H, W, 1 or 3]")
    return image if image.shape[2] == 3 else image.repeat(3, axis=2)
