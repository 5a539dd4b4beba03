"""The recorded path on disk: node-1 … node-N as safetensors, each with a JSON that proves it whole. Node 0 is the teacher."""

from collections.abc import Mapping

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder


def save_node(path: Folder, node: int, weights: Mapping[str, Tensor], *, step: int) -> None:
    """Keeps node `node`, reached after `step` recording steps. The JSON is written last. Raises CheckpointError."""
    proof = path.write_tensors(f"node-{node}.safetensors", weights)
    path.write_json(f"node-{node}.json", {"node": node, "step": step, "weights": proof})


def load_node(path: Folder, node: int) -> dict[str, Tensor]:
    """Raises CheckpointError where the node is missing, damaged or not what was kept."""
    try:
        sha256 = path.read_json(f"node-{node}.json")["weights"]["sha256"]
    except (KeyError, TypeError):
        raise CheckpointError(f"{path.uri}/node-{node}.json is damaged: it has no SHA-256 of the weights") from None
    return path.read_tensors(f"node-{node}.safetensors", sha256=sha256)
