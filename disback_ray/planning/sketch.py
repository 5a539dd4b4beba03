"""Folders of a teacher and of a path that are not there yet: the right names and shapes, and no data."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from disback_ray.networks.lora import adapter_of
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.storage import Folder
from disback_ray.teachers.path_copies import PathCopies


@dataclass(frozen=True)
class SketchedFolder(Folder):
    """What a role reads in a denoiser's folder, or in that of a path's node. To be used under a FakeTensorMode."""

    spec: DenoiserSpec
    weights: dict[str, Tensor]

    def __truediv__(self, name: str) -> "SketchedFolder":
        return self

    def has(self, name: str) -> bool:
        return True

    def read_json(self, name: str) -> Any:
        return self.spec.to_json() | {"weights": {"sha256": None}}

    def read_tensors(self, name: str, *, sha256: str | None = None) -> dict[str, Tensor]:
        return self.weights


class SketchedCopies(PathCopies):
    """The path's nodes, whichever is asked for."""

    def read(self, node: int) -> dict[str, Tensor]:
        denoiser = self.build()
        return adapter_of(denoiser) if self.lora else dict(denoiser.state_dict())

    def proof(self, node: int) -> str:
        return ""
