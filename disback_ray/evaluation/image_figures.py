"""The figures of a set of images against a reference, with what they are figures of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.frechet import frechet_of
from disback_ray.evaluation.kernel_distance import kernel_distance
from disback_ray.evaluation.kinds import SHOWN, FeatureKind, Origin, require_same_kind, require_same_resolution
from disback_ray.evaluation.precision_recall import precision_recall
from disback_ray.evaluation.statistics import Statistics

TITLES = {
    "frechet": "Fréchet distance",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "sliced_wasserstein": "sliced Wasserstein",
    "energy_distance": "energy distance",
    "modes": "modes covered",
    "in_modes": "in modes",
    "clip_score": "CLIP score",
}
ALONE = {"mismatch": "the mismatch degree", "clip_score": "a CLIP score alone"}
"""Figures that are taken without features, and not of points."""


@dataclass(frozen=True)
class ImageFigures:
    """figures: by name; kind, reference: None where nothing was compared with a reference; blocks: each block's Fréchet distance.

    of: the SHA-256 of what else they are figures of: of a CLIP score the CLIP and the prompts. notes: what a reader has to know.
    """

    figures: dict[str, float]
    samples: Origin
    kind: FeatureKind | None = None
    reference: Origin | None = None
    blocks: tuple[float, ...] = ()
    notes: tuple[str, ...] = field(default=())
    of: dict[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """What made them, which their names tell."""
        if self.kind:
            return "features"
        return next((title for name, title in ALONE.items() if name in self.figures), "points")

    def lines(self) -> list[str]:
        """For people: each figure, and below them what they are figures of."""
        shown = [f"{TITLES.get(name, name):22}{value:.6g}" for name, value in self.figures.items()]
        if len(self.blocks) > 1:
            shown.append(f"{'':22}the least of {len(self.blocks)} blocks: {', '.join(f'{value:.6g}' for value in self.blocks)}")
        shown += [f"features: {self.kind}"] if self.kind else []
        shown += [f"samples: {self.samples}"]
        shown += [f"reference: {self.reference}"] if self.reference else []
        shown += [f"{what}: {sha256[:SHOWN]}" for what, sha256 in self.of.items()]
        return [*shown, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any, *, name: str) -> ImageFigures:
        """What `to_json` gave. Raises CheckpointError where it is anything else."""
        try:
            return ImageFigures(
                figures={str(key): float(number) for key, number in value["figures"].items()},
                samples=Origin.from_json(value["samples"]),
                kind=FeatureKind.from_json(value["kind"]) if value.get("kind") else None,
                reference=Origin.from_json(value["reference"]) if value.get("reference") else None,
                blocks=tuple(float(number) for number in value.get("blocks") or ()),
                notes=tuple(str(note) for note in value.get("notes") or ()),
                of={str(what): str(sha256) for what, sha256 in (value.get("of") or {}).items()},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{name}: no figures of `disback-ray evaluate --json` ({error})") from None


def measure(blocks: Iterable[Statistics], reference: Statistics, *, seed: int = 0) -> ImageFigures:
    """Fréchet distance and, where features were kept, kernel distance, precision and recall.

    blocks: of samples; with several the one at the least distance counts, which is EDM's convention with three of 50,000.
    Raises ConfigError where samples and reference are of different kinds or resolutions.
    """
    assert reference.kind is not None
    distances, best = [], None
    for block in blocks:
        assert block.kind is not None
        require_same_resolution(block.origin, reference.origin)  # first: of pixels the features are as many as that says
        require_same_kind(block.kind, reference.kind, name=reference.origin.name)
        distances.append(frechet_of(block.gaussian, reference.gaussian))
        if min(distances) == distances[-1]:
            best = block
    assert best is not None
    figures, notes = {"frechet": min(distances)}, []
    if reference.origin.odd:
        notes.append("the reference's images are of several sizes, so that the resizer has a part in the distance")
    if best.features is None or reference.features is None:
        which = best.origin.name if best.features is None else reference.origin.name
        notes.append(f"{which} keeps no features: no kernel distance, precision and recall")
    else:
        figures["kernel_distance"] = kernel_distance(best.features, reference.features, seed=seed)
        if figures["kernel_distance"] < 0:
            notes.append(
                "the kernel distance is an unbiased estimate of a number of at least 0: where that is near 0, it falls below as well"
            )
        if min(len(best.features), len(reference.features)) > 3:
            figures |= asdict(precision_recall(best.features, reference.features))
    return ImageFigures(figures, best.origin, best.kind, reference.origin, tuple(distances), notes=tuple(notes))


def drawn_otherwise(ours: ImageFigures, theirs: ImageFigures) -> str:
    """What theirs were drawn in, where both are a model's and it isn't the same: two of those may be compared, but not unawares."""
    known = ours.samples.drawn and theirs.samples.drawn
    return f", drawn in {theirs.samples.drawn}" if known and theirs.samples.drawn != ours.samples.drawn else ""


def differences(ours: ImageFigures, theirs: ImageFigures, *, name: str) -> dict[str, float]:
    """Ours − theirs for each figure that both have. name: where theirs are from.

    Raises ConfigError where they are figures of different things: measure, extractor, resizer, reference, CLIP, prompts or number of
    samples.
    """
    if ours.measure != theirs.measure:
        raise ConfigError(f"{name}: figures of another kind: of {theirs.measure}, here of {ours.measure}: they don't compare")
    if ours.kind and theirs.kind:
        require_same_kind(ours.kind, theirs.kind, name=name)
    if ours.reference and theirs.reference and ours.reference.sha256 != theirs.reference.sha256:
        raise ConfigError(f"{name}: figures against another reference, {theirs.reference}; here {ours.reference}")
    shared = [key for key in ours.figures if key in theirs.figures]
    for what in (*ours.of, *theirs.of):
        here, there = (found.of.get(what) for found in (ours, theirs))
        if here != there and ("clip_score" in shared or (here and there)):  # a folder's distance has no prompts
            said = [sha256[:SHOWN] if sha256 else "not told" for sha256 in (there, here)]
            raise ConfigError(
                f"{name}: figures of another kind: the SHA-256 of its {what} is {said[0]}, here {said[1]}; take the same"
            )
    for what, mine, other in (
        ("samples", ours.samples.images, theirs.samples.images),
        ("blocks", max(len(ours.blocks), 1), max(len(theirs.blocks), 1)),
    ):
        if mine != other:
            raise ConfigError(f"{name}: figures of {other} {what}, here of {mine}: their number moves a distance; take as many")
    if not shared:
        raise ConfigError(
            f"{name}: has {', '.join(theirs.figures) or 'no figures'}, here {', '.join(ours.figures)}: none is of both"
        )
    return {key: ours.figures[key] - theirs.figures[key] for key in shared}
