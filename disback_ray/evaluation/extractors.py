"""What turns images into features: an Inception network, the digits' classifier, the pixels themselves, or anybody's module."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from disback_ray.device import best_device
from disback_ray.errors import ConfigError
from disback_ray.evaluation.digit_judge import FEATURES, DigitJudge
from disback_ray.evaluation.inception import Inception
from disback_ray.evaluation.kinds import FeatureKind
from disback_ray.evaluation.resizers import Mode
from disback_ray.evaluation.statistics import Extracts
from disback_ray.fetching import fetch
from disback_ray.networks.module import factory_of, one_line
from disback_ray.storage import Folder, digest

NAMES = ("inception", "digits", "pixels")


@dataclass(frozen=True)
class ExtractorSpec:
    """name: inception, digits, pixels, or module:factory. weights, sha256, mode: of inception, whose file is a path or an address.

    mode: clean-fid's: clean, legacy_pytorch or legacy_tensorflow.
    """

    name: str = "inception"
    weights: str | None = None
    sha256: str | None = None
    mode: Mode = "clean"

    def build(self, *, cache: Folder | None, judge: Callable[[], DigitJudge] | None = None) -> Extracts:
        """cache: where what comes from the web is kept; judge: the digits', trained here where it isn't given.

        Raises ConfigError for settings that contradict one another, CheckpointError for a file that is missing or another thing.
        """
        if self.name != "inception" and (self.weights or self.sha256):
            raise ConfigError(f"extractor {self.name}: takes no weights; they are for inception")
        if self.name == "inception":
            if self.weights is None:
                raise ConfigError(
                    "extractor inception: give its weights: the file or address of NVIDIA's inception-2015-12-05.pt, "
                    "or of pytorch-fid's pt_inception-2015-12-05-6726825d.pth for the mode legacy_pytorch"
                )
            return Inception(fetch(self.weights, sha256=self.sha256, cache=cache), mode=self.mode)
        if self.name == "pixels":
            return Pixels()
        if self.name == "digits":
            return DigitFeatures((judge or DigitJudge.train)())
        if ":" in self.name:
            return ModuleFeatures(self.name)
        raise ConfigError(f"extractor {self.name}: expected {', '.join(NAMES)} or module:factory")


class Pixels:
    """The pixels themselves, in [-1, 1], flat: for small images, and to look at distances without any network."""

    def __init__(self) -> None:
        self.kind = FeatureKind("pixels", "none", "none", 0)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [B, H · W · C]. Raises ConfigError where sizes differ."""
        return _stacked(images, "pixels").flatten(1).numpy()


class DigitFeatures:
    """The last hidden layer of the judge of 8×8 digits."""

    def __init__(self, judge: DigitJudge) -> None:
        self.judge = judge
        self.kind = FeatureKind("digits", judge.sha256, "none", FEATURES)

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [B, 64]. images: uint8 [8, 8, 1 or 3]. Raises ConfigError for others."""
        x = _stacked(images, "digits")
        if x.shape[2:] != (8, 8):
            raise ConfigError(f"extractor digits: it knows 8 × 8 pixels, these have {x.shape[2]} × {x.shape[3]}")
        return self.judge.features(x.mean(dim=1, keepdim=True))


class ModuleFeatures:
    """What `factory()` of a module of the user's gives: a torch module from float32 [B, C, H, W], in [-1, 1], to [B, …]."""

    def __init__(self, name: str) -> None:
        """Runs the user's code. Raises ConfigError where there is no such factory, it fails, or it makes no module."""
        factory = factory_of(name)
        try:
            made = factory()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"extractor {name}: calling it without arguments failed: {one_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise ConfigError(f"extractor {name}: returns {type(made).__name__}, not a torch.nn.Module")
        self.name, self.device = name, best_device()
        self.module = made.eval().to(self.device)
        self.kind = FeatureKind(name, _identity(factory, self.module), "none", 0)

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [B, D]. Raises ConfigError where the module fails or gives anything else."""
        x = _stacked(images, self.name).to(self.device)
        try:
            found = self.module(x)
        except (Exception, SystemExit) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise  # no fault of the module
            raise ConfigError(f"extractor {self.name}: forward(x {list(x.shape)}) failed: {one_line(error)}") from error
        if not isinstance(found, Tensor) or not found.ndim or len(found) != len(images):
            raise ConfigError(f"extractor {self.name}: gave no tensor with a row for each of {len(images)} images")
        return found.float().reshape(len(images), -1).cpu().numpy()


def _identity(factory: Callable[..., nn.Module], module: nn.Module) -> str:
    """SHA-256 of the weights, and of the files that the factory and the classes of its modules are written in, but for torch's own."""
    homes = {getattr(one, "__module__", "") for one in (factory, *map(type, module.modules()))}
    files = {getattr(sys.modules.get(home), "__file__", None) for home in homes if home.partition(".")[0] != "torch"}
    sources = sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file)
    return hashlib.sha256("\n".join([digest(module.state_dict()), *sources]).encode()).hexdigest()


def as_pixels(x: Tensor) -> list[np.ndarray]:
    """Samples as a file would hold them: uint8 [H, W, C] each. x: [B, C, H, W] in [-1, 1]; what lies outside is cut off.

    round(127.5 x + 127.5), so that -1 is 0 and 1 is 255. NaN must have been refused before.
    """
    pixels = (x.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).contiguous().numpy())


def _stacked(images: Sequence[np.ndarray], name: str) -> Tensor:
    """float32 [B, C, H, W] in [-1, 1]. Raises ConfigError where the shapes differ."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise ConfigError(
            f"extractor {name}: images of {len(shapes)} shapes, such as {shapes[0]} and {shapes[-1]}: it needs one for all"
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
