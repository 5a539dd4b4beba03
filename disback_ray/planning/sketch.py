"""Folders of a teacher and of a path that are not there yet: the right names and shapes, and no data."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from disback_ray.networks.lora import adapter_of
from disback_ray.networks.prompt_table import Embedded
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.storage import Folder
from disback_ray.teachers.path_copies import PathCopies

TOKENS = 77
"""Of CLIP's text encoders."""


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


@dataclass(frozen=True)
class SketchedCopies(PathCopies):
    """Copies whose path's nodes are all there. node: the weights of each; they come through host memory, which no device holds."""

    node: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(copies: PathCopies, whole: dict[str, Tensor]) -> "SketchedCopies":
        """whole: a node's weights where it is no adapter."""
        weights = adapter_of(copies.build()) if copies.lora else whole
        return SketchedCopies(copies.teacher, copies.path, copies.lora, node=weights)

    def read(self, node: int) -> dict[str, Tensor]:
        return self.node

    def proof(self, node: int) -> str:
        return ""


class SketchedPrompts:
    """A table of encoded prompts, of the widths that Stable Diffusion's families have (the tokens' is the network's own)."""

    width, pooled = 768, 0

    @classmethod
    def of(cls, config: dict[str, Any]) -> type["SketchedPrompts"]:
        """The table for a U-Net of diffusers' settings."""
        sizes = 6 * int(config.get("addition_time_embed_dim") or 0)
        pooled = int(config.get("projection_class_embeddings_input_dim") or sizes) - sizes
        return type("Table", (cls,), {"width": config["cross_attention_dim"], "pooled": pooled})

    def __init__(self, folder: Folder) -> None:
        pass

    def rows(self, numbers: Tensor) -> Embedded:
        tokens = torch.zeros(len(numbers), TOKENS, self.width)
        return Embedded(tokens, torch.zeros(len(numbers), self.pooled) if self.pooled else None)
