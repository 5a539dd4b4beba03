"""Copies of the teacher that leave it along the path: θ', its nodes and s_φ, whole or as LoRA's adapters on the teacher's weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from disback_ray.networks.lora import LoRA, adapter_of, add_lora, load_adapter
from disback_ray.storage import Folder
from disback_ray.teachers import saved
from disback_ray.teachers.node_storage import WHOLE, NodeStorage, unpacked
from disback_ray.teachers.path_nodes import load_node, proof_of, said_of, save_node
from disback_ray.teachers.saved import load_denoiser, load_spec, load_strictly


@dataclass(frozen=True)
class PathCopies:
    """How such a copy is built, kept as a node, and read again. lora: None for whole networks; storage: of the nodes on disk.

    Whoever starts from a node or scores with it has read it, and so has it as it is stored, in a run that was never interrupted too.
    """

    teacher: Folder
    path: Folder
    lora: LoRA | None = None
    storage: NodeStorage = WHOLE

    @cached_property
    def adapter(self) -> dict[str, Any] | None:
        """What the files of adapters say: which base they are for, and what they look like. Raises CheckpointError."""
        return self.lora.identity(saved.proof_of(self.teacher)) if self.lora else None

    def build(self) -> nn.Module:
        """A copy at the teacher's weights. Raises CheckpointError where they are not whole, ConfigError where LoRA can't be had."""
        denoiser = load_denoiser(self.teacher)
        if self.lora:
            add_lora(denoiser, self.lora)
        return denoiser

    def build_random(self, seed: int) -> nn.Module:
        """The same network with random weights. Raises CheckpointError."""
        assert self.lora is None, "an adapter is on the teacher's weights"
        return load_spec(self.teacher).build(seed=seed)

    def read(self, node: int) -> dict[str, Tensor]:
        """A node's weights, whole, however they are stored.

        Raises CheckpointError where they are missing, damaged, or for another base or kind of adapter.
        """
        tensors = load_node(self.path, node, adapter=self.adapter)
        says = said_of(self.path, node).get("storage")
        where = f"{self.path.uri}/node-{node}.json"
        return tensors if says is None else unpacked(tensors, says, base=self._base, where=where)

    def _base(self) -> tuple[str, Mapping[str, Tensor]]:
        """The teacher's weights with their proof. Raises CheckpointError."""
        return saved.proof_of(self.teacher), saved.load_weights(self.teacher)

    def proof(self, node: int) -> str:
        """The SHA-256 of a node's weights as they are on disk. Raises CheckpointError."""
        return proof_of(self.path, node, adapter=self.adapter)

    def put(self, denoiser: nn.Module, tensors: dict[str, Tensor], *, node: int) -> None:
        """Gives a copy a node's weights, in the memory that it has. Raises CheckpointError where they don't fit."""
        where = f"{self.path.uri}, node {node}"
        if self.lora:
            load_adapter(denoiser, tensors, where=where)
        else:
            load_strictly(denoiser, tensors, where=where)

    def weights(self, denoiser: nn.Module) -> dict[str, Tensor]:
        """What a node keeps of a copy."""
        return adapter_of(denoiser) if self.lora else denoiser.state_dict()

    def matrices(self, denoiser: nn.Module) -> set[str]:
        """What of a copy's weights is trained and no vector: nearly all of them, and all that may be stored smaller."""
        trained = denoiser.named_parameters(remove_duplicate=False)
        return {name for name, weight in trained if weight.requires_grad and weight.ndim > 1 and weight.is_floating_point()}

    def keep(self, weights: dict[str, Tensor], node: int, *, step: int, matrices: Collection[str] = ()) -> None:
        """Keeps a copy's weights as a node. matrices: what matrices() gave. Raises CheckpointError."""
        tensors, says = self.storage.pack(weights, matrices=matrices, base=self._base)
        save_node(self.path, node, tensors, step=step, adapter=self.adapter, storage=says)
