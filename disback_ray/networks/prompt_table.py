"""Encoded prompts on disk, found by a prompt's number: shards of safetensors that are mapped into memory, not read.

So no text encoder sits beside a network, and what crosses between roles is a number a sample.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder

TEXTS, INDEX, SHARD = "texts.json", "prompts.json", 256
UNCONDITIONAL = -1
"""The number of 'no prompt', as -1 is that of 'no class'."""


@dataclass(frozen=True)
class Embedded:
    """What text encoders make of B prompts. tokens: [B, 77, D]; pooled: [B, P], of SDXL's second encoder, else None."""

    tokens: Tensor
    pooled: Tensor | None


@dataclass
class PromptTable:
    """A folder of shards with its index. Raises CheckpointError where it is not whole."""

    folder: Folder
    index: dict[str, Any] = field(init=False)
    shards: dict[int, Any] = field(init=False, default_factory=dict)  # those that have been opened

    def __post_init__(self) -> None:
        if not self.folder.has(INDEX):
            raise CheckpointError(f"{self.folder.uri}: no encoded prompts are there: run the recipe, which encodes them")
        self.index = self.folder.read_json(INDEX)

    def __len__(self) -> int:
        return int(self.index["count"])

    def rows(self, numbers: Tensor) -> Embedded:
        """numbers: int64 [B] of 0 … len - 1, or -1 for no prompt. On the CPU, in float32.

        Raises CheckpointError where a shard is missing or not what was written.
        """
        each = [self._row(number) for number in numbers.tolist()]
        pooled = [row["pooled"] for row in each if "pooled" in row]
        return Embedded(torch.cat([row["tokens"] for row in each]), torch.cat(pooled) if pooled else None)

    def _row(self, number: int) -> dict[str, Tensor]:
        assert UNCONDITIONAL <= number < len(self), f"prompt {number} of {len(self)}"
        shard, row = (-1, 0) if number == UNCONDITIONAL else divmod(number, SHARD)
        opened = self.shards.get(shard)
        if opened is None:
            opened = self.shards[shard] = self._open(self.index["unconditional"] if shard < 0 else self.index["shards"][shard])
        return {name: opened.get_slice(name)[row : row + 1].float() for name in opened.keys()}  # noqa: SIM118  (no mapping)

    def _open(self, proof: dict[str, Any]) -> Any:
        self.folder.verify(proof)
        if self.folder.is_local:
            return safe_open(self.folder.local_path / proof["file"], framework="pt")
        with tempfile.TemporaryDirectory() as beside:  # what is mapped stays readable once its name is gone
            copy = Path(beside, "shard.safetensors")
            copy.write_bytes(self.folder.read(proof["file"]))
            return safe_open(copy, framework="pt")
