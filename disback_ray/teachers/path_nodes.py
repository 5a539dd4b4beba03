"""The recorded path on disk: node-1 … node-N as safetensors, each with a JSON that proves it whole. Node 0 is the teacher."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder


def save_node(
    path: Folder, node: int, weights: Mapping[str, Tensor], *, step: int, adapter: dict[str, Any] | None = None
) -> None:
    """Keeps node `node`, reached after `step` recording steps. The JSON is written last. Raises CheckpointError.

    adapter: what LoRA.identity() says, where the weights are only an adapter's.
    """
    proof = path.write_tensors(f"node-{node}.safetensors", weights)
    path.write_json(
        f"node-{node}.json", {"node": node, "step": step, "weights": proof} | ({"adapter": adapter} if adapter else {})
    )


def load_node(path: Folder, node: int, *, adapter: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """Raises CheckpointError where the node is missing, damaged, not what was kept, or not for the same base and kind of adapter."""
    return path.read_tensors(f"node-{node}.safetensors", sha256=proof_of(path, node, adapter=adapter))


def proof_of(path: Folder, node: int, *, adapter: dict[str, Any] | None = None) -> str:
    """The SHA-256 of a node's weights. Raises what load_node does, the weights unread."""
    name = f"{path.uri}/node-{node}.json"
    try:
        said = path.read_json(f"node-{node}.json")
        sha256: str = said["weights"]["sha256"]
        found = said.get("adapter")
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{name} is damaged: it has no SHA-256 of the weights") from None
    if found != adapter:
        raise CheckpointError(f"{name}: recorded with other settings: {_mismatch(found, adapter)}")
    return sha256


def _mismatch(found: dict[str, Any] | None, wanted: dict[str, Any] | None) -> str:
    if found is None or wanted is None:
        return "it is a whole network, not LoRA's adapter" if found is None else "it is LoRA's adapter, not a whole network"
    pairs = {key: (str(found.get(key)), str(wanted[key])) for key in wanted if found.get(key) != wanted[key]}
    return ", ".join(f"its {key} is {there[:12]}, not {ours[:12]}" for key, (there, ours) in pairs.items())
