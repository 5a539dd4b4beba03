"""What a figure is a figure of: the extractor, the resizer and the reference. Figures of different kinds are not compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from disback_ray.errors import ConfigError

SHOWN = 12  # digits of a SHA-256 that a person is shown


@dataclass(frozen=True)
class FeatureKind:
    """What features are: extractor: its name; sha256: of its weights, or of what stands for them; resizer: before it."""

    extractor: str
    sha256: str
    resizer: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.extractor} ({self.sha256[:SHOWN]}), resizer {self.resizer}, {self.dimensions} features"

    @staticmethod
    def from_json(value: dict[str, Any]) -> FeatureKind:
        """Raises KeyError or TypeError where something is missing."""
        return FeatureKind(str(value["extractor"]), str(value["sha256"]), str(value["resizer"]), int(value["dimensions"]))


@dataclass(frozen=True)
class Origin:
    """Where images came from. name: a file's or folder's; sha256: of all its bytes; resolution: (height, width), None if mixed.

    odd: of mixed ones the first that is of another size than those before it, in words. drawn: of a model's, in what: sampler's steps
    and guidance; '' where they are nobody's samples, or whoever made the file didn't tell.
    """

    name: str
    sha256: str
    images: int | None
    resolution: tuple[int, int] | None = None
    skipped: int = 0
    odd: str = ""
    drawn: str = ""

    def __str__(self) -> str:
        size = f" images of {self.resolution[0]} × {self.resolution[1]} pixels" if self.resolution else " samples"
        size = f" images of several sizes ({self.odd})" if self.odd else size
        count = f", {self.images:,}{size}" if self.images is not None else ""
        lost = f", {self.skipped} more skipped as corrupt" if self.skipped else ""
        how = f", drawn in {self.drawn}" if self.drawn else ""
        return f"{self.name} ({self.sha256[:SHOWN]}){count}{lost}{how}"

    @staticmethod
    def from_json(value: dict[str, Any]) -> Origin:
        """Raises KeyError or TypeError where something is missing."""
        size = value.get("resolution")
        images = value["images"]
        return Origin(
            str(value["name"]), str(value["sha256"]), None if images is None else int(images),
            None if size is None else (int(size[0]), int(size[1])), int(value.get("skipped", 0)), str(value.get("odd", "")),
            str(value.get("drawn", "")),
        )  # fmt: skip


def require_same_kind(ours: FeatureKind, theirs: FeatureKind, *, name: str) -> None:
    """Raises ConfigError where features of these kinds can't be compared; the first difference is named. name: whose `theirs` is."""
    for field in fields(FeatureKind):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine != other:
            shown = [value[:SHOWN] if field.name == "sha256" else value for value in (other, mine)]
            what = "extractor's SHA-256" if field.name == "sha256" else field.name
            hint = ""
            if field.name == "dimensions" and ours.extractor == "pixels":
                hint = " (images of another size, or grey ones against colour: data.grey)"
            raise ConfigError(
                f"{name}: of another kind: its {what} is {shown[0]}, here {shown[1]}{hint}: such figures don't compare; "
                "make both the same way"
            )


def require_same_resolution(samples: Origin, reference: Origin) -> None:
    """Raises ConfigError where images had other sizes before they were resized. A reference may be mixed, or not tell its size."""
    if samples.odd and reference.resolution:
        raise ConfigError(
            f"{samples.name}: its images are of several sizes ({samples.odd}), those of {reference.name} of "
            f"{reference.resolution[0]} × {reference.resolution[1]}: the resizer would decide the distance; make them of that size"
        )
    if samples.resolution and reference.resolution and samples.resolution != reference.resolution:
        (high, wide), (their_high, their_wide) = samples.resolution, reference.resolution
        raise ConfigError(
            f"{reference.name}: statistics of {their_high} × {their_wide} pixels, and the samples have {high} × {wide}: "
            "the resizer would decide the distance; use a reference of the samples' size"
        )


def as_json(record: FeatureKind | Origin) -> dict[str, Any]:
    return asdict(record)
