"""Statistics of features as a file: mean and covariance, what made them, and a part of the features themselves.

The file is an .npz with `mu` and `sigma`, as EDM's `fid-refs` and clean-fid's have them, and beside those `about`, a JSON text, and
`features`, which the kernel distance, precision and recall need.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np

from disback_ray.data.arrays import read_arrays
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.kinds import FeatureKind, Origin, require_same_resolution
from disback_ray.evaluation.moments import Gaussian, Moments, require_finite
from disback_ray.fetching import Fetched
from disback_ray.storage import Folder

KEPT_FEATURES = 10_000
"""So many samples' features are kept: at 2,048 each, 82 MB."""
ROUNDING = 1e-6
"""A covariance's eigenvalues may be this far below 0, as a part of the largest: further, it is none."""
LARGEST = 1e100
"""Products of what is larger overflow."""
MOST_BYTES = 1 << 30
"""Unpacked; those of 2,048 features have 116 MB."""


class Extracts(Protocol):
    """See extractors.py. images: uint8 [H, W, C] each → float32 [B, D]."""

    @property
    def kind(self) -> FeatureKind: ...

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray: ...


@dataclass(frozen=True)
class Statistics:
    """kind: None where the file doesn't tell what made it; features: of some samples, float32 [M, D], None if not kept."""

    gaussian: Gaussian
    kind: FeatureKind | None
    origin: Origin
    features: np.ndarray | None


@dataclass
class Tally:
    """Gathers statistics part by part, in memory for one part and the features that are kept. kind: its dimensions are filled in.

    keep: of so many samples the features are kept, of all of them as likely: a folder's first ones may be of one class alone.
    """

    kind: FeatureKind
    keep: int = KEPT_FEATURES

    def __post_init__(self) -> None:
        self.moments = Moments()
        self.parts: list[np.ndarray] = []
        self.sizes: set[tuple[int, int]] = set()
        self._random = np.random.default_rng(0)

    def add(self, features: np.ndarray, sizes: Iterable[tuple[int, int]]) -> None:
        """features: real [B, D]; sizes: the images' heights and widths. Raises ConfigError, NonFiniteError."""
        self.moments.add(features)
        self.kind = replace(self.kind, dimensions=features.shape[1])
        self._keep(features)
        self.sizes.update(sizes)

    def _keep(self, features: np.ndarray) -> None:
        """A uniform draw of all rows so far: Algorithm R (Vitter 1985), whatever the parts' sizes."""
        room = max(0, self.keep - sum(len(part) for part in self.parts))
        if len(features[:room]):
            self.parts.append(np.array(features[:room], np.float32))
        later = features[room:]
        if not len(later) or not self.keep:
            return
        self.parts = [np.concatenate(self.parts)] if len(self.parts) > 1 else self.parts
        numbers = np.arange(self.moments.count - len(later), self.moments.count)
        for row, place in zip(later, (self._random.random(len(later)) * (numbers + 1)).astype(int), strict=True):
            if place < self.keep:
                self.parts[0][place] = row

    @property
    def resolution(self) -> tuple[int, int] | None:
        return next(iter(self.sizes)) if len(self.sizes) == 1 else None

    def statistics(
        self, name: str, sha256: str, *, skipped: int = 0, odd: str = "", drawn: str = "", reference: Origin | None = None
    ) -> Statistics:
        """odd: as Origin's, where sizes are mixed; drawn: as Origin's. reference: what they are to be compared with.

        Raises ConfigError where they are of another resolution than that, or too few: of pixels, whose number is the resolution's,
        the first is why.
        """
        mixed = odd if len(self.sizes) > 1 else ""
        origin = Origin(name, sha256, self.moments.count, self.resolution, skipped, mixed, drawn)
        if reference is not None:
            require_same_resolution(origin, reference)
        features = np.concatenate(self.parts) if self.parts else None
        return Statistics(self.moments.gaussian(), self.kind, origin, features)


def tally(
    parts: Iterable[Sequence[np.ndarray]], extractor: Extracts,
    *, keep: int = KEPT_FEATURES, names: Callable[[], Sequence[str]] | None = None,
) -> Tally:  # fmt: skip
    """Statistics of images that come in parts: uint8 [H, W, C] each. names: of the last part's, where they are files.

    Raises what the parts, the extractor and Tally raise.
    """
    found = Tally(extractor.kind, keep)
    for images in parts:
        features = extractor.features(images)
        if names is not None:
            require_finite(features, names(), before=found.moments.count)
        found.add(features, [(image.shape[0], image.shape[1]) for image in images])
    return found


def save_statistics(folder: Folder, name: str, found: Statistics) -> None:
    """Raises CheckpointError where it can't be written."""
    about = {"kind": None if found.kind is None else asdict(found.kind), "origin": asdict(found.origin)}
    arrays = {
        "mu": found.gaussian.mean,
        "sigma": found.gaussian.covariance,
        "about": np.array(json.dumps(about, ensure_ascii=True)),
    }
    if found.features is not None:
        arrays["features"] = found.features
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its options
    folder.write(name, sink.getvalue())


def read_statistics(file: Fetched) -> Statistics:
    """Ours, clean-fid's or EDM's. Raises CheckpointError where it is damaged or holds no statistics."""
    try:
        found = read_arrays(file.data, ("mu", "sigma", "about", "features"), where="no statistics of features", most=MOST_BYTES)
        if any(np.iscomplexobj(found[name]) for name in ("mu", "sigma")):
            raise ValueError("mu or sigma is complex")
        mean, covariance = (np.asarray(found[name], np.float64) for name in ("mu", "sigma"))
        about = json.loads(str(found["about"])) if "about" in found else None
        kind = FeatureKind.from_json(about["kind"]) if about is not None and about["kind"] else None
        origin = Origin(file.name, file.sha256, None) if about is None else Origin.from_json(about["origin"])
    except KeyError as error:
        raise CheckpointError(f"{file.name}: no statistics of features: it has no {error.args[0]!r}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{file.name}: {error}") from None
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{file.name}: no statistics of features: {' '.join(str(error).split())[:200]}") from None
    if about is not None:
        origin = replace(origin, name=f"{file.name} of {origin.name}", sha256=file.sha256)
    _check(mean, covariance, file.name)
    return Statistics(Gaussian(mean, covariance, origin.images), kind, origin, found.get("features"))


def assume_kind(found: Statistics, kind: FeatureKind) -> Statistics:
    """The user's word for what a file doesn't tell. Raises ConfigError where the dimensions contradict it."""
    if found.gaussian.dimensions != kind.dimensions:
        raise ConfigError(
            f"{found.origin.name}: has {found.gaussian.dimensions} dimensions, and the extractor here {kind.dimensions}: "
            "made by another one"
        )
    return replace(
        found, kind=kind, origin=replace(found.origin, name=f"{found.origin.name}, whose kind it doesn't tell: assumed")
    )


def _check(mean: np.ndarray, covariance: np.ndarray, name: str) -> None:
    if mean.ndim != 1 or mean.size < 2 or covariance.shape != (mean.size, mean.size):
        raise CheckpointError(f"{name}: mu has shape {mean.shape} and sigma {covariance.shape}: expected [D] and [D, D], D > 1")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise CheckpointError(f"{name}: has NaN or Inf: make the statistics again")
    if max(np.abs(mean).max(), np.abs(covariance).max()) > LARGEST:
        raise CheckpointError(
            f"{name}: has numbers over {LARGEST:g}, of which no distance can be told: make the statistics again"
        )
    values = np.linalg.eigvalsh((covariance + covariance.T) / 2)
    if not np.allclose(covariance, covariance.T, atol=ROUNDING * abs(covariance).max()) or values[0] < -ROUNDING * abs(
        values[-1]
    ):
        raise CheckpointError(f"{name}: sigma is no covariance (not symmetric, or with negative eigenvalues)")
