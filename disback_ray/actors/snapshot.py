"""What a role is at one moment, to be written while it goes on."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from disback_ray.storage import Folder


@dataclass(frozen=True)
class Snapshot:
    """Weights, optimiser and whatever else a role needs to go on. Over Ray it is a copy; in one process it is the role's own."""

    tensors: dict[str, Tensor]

    def copied(self) -> "Snapshot":
        """The same in host memory, whatever becomes of the role meanwhile."""
        return Snapshot({name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()})

    def write(self, folder: Folder, name: str) -> dict[str, Any]:
        """Writes it, and reads it back; returns the file's proof. Raises CheckpointError."""
        proof = folder.write_tensors(name, self.tensors)
        folder.verify(proof)
        return proof
