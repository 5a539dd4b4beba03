"""The recorded path on disk: node-1 … node-N as safetensors, each with a JSON that proves it whole. Node 0 is the teacher."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.storage import Folder


def save_node(
    path: Folder,
    node: int,
    weights: Mapping[str, Tensor],
    *,
    step: int,
    adapter: dict[str, Any] | None = None,
    storage: Any = None,
) -> None:
    """Keeps node `node`, reached after `step` recording steps. The JSON is written last. Raises CheckpointError.

    adapter: what LoRA.identity() says, where the weights are only an adapter's; storage: what NodeStorage.pack() says of them.
    """
    proof = path.write_tensors(f"node-{node}.safetensors", weights)
    facts = {name: fact for name, fact in (("adapter", adapter), ("storage", storage)) if fact}
    path.write_json(f"node-{node}.json", {"node": node, "step": step, "weights": proof} | facts)


def load_node(path: Folder, node: int, *, adapter: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """A node's file, as it is stored.

    Raises CheckpointError where it is missing, damaged, not what was kept, or not for the same base and kind of adapter.
    """
    return path.read_tensors(f"node-{node}.safetensors", sha256=proof_of(path, node, adapter=adapter))


def check_node(path: Folder, node: int) -> None:
    """Raises CheckpointError where a node is not there as it was kept."""
    path.verify({"file": f"node-{node}.safetensors", "sha256": said_of(path, node)["weights"]["sha256"]})


def proof_of(path: Folder, node: int, *, adapter: dict[str, Any] | None = None) -> str:
    """The SHA-256 of a node's weights. Raises what load_node does, the weights unread."""
    said = said_of(path, node)
    if said.get("adapter") != adapter:
        found = _mismatch(said.get("adapter"), adapter)
        raise CheckpointError(f"{path.uri}/node-{node}.json: recorded with other settings: {found}")
    return str(said["weights"]["sha256"])


def said_of(path: Folder, node: int) -> dict[str, Any]:
    """What the JSON beside a node says: node, step, weights; adapter and storage, where they are given. Raises CheckpointError."""
    said, name = path.read_json(f"node-{node}.json"), f"{path.uri}/node-{node}.json"
    try:
        whole = isinstance(said["weights"]["sha256"], str)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{name} is damaged: it has no SHA-256 of the weights")
    for fact in ("adapter", "storage"):
        if not isinstance(said.get(fact, {}), dict):
            raise CheckpointError(f"{name} is damaged: its {fact} is {said[fact]!r:.40}")
    return dict(said)


def nodes_of(path: Folder) -> list[int]:
    """The nodes that a path has, 1 … N. Raises CheckpointError."""
    names = [name.removeprefix("node-").removesuffix(".json") for name in path.names() if name.endswith(".json")]
    return sorted(int(name) for name in names if name.isdecimal())


def _mismatch(found: dict[str, Any] | None, wanted: dict[str, Any] | None) -> str:
    if found is None or wanted is None:
        return "it is a whole network, not LoRA's adapter" if found is None else "it is LoRA's adapter, not a whole network"
    pairs = {key: (str(found.get(key)), str(wanted[key])) for key in wanted if found.get(key) != wanted[key]}
    return ", ".join(f"its {key} is {there[:12]}, not {ours[:12]}" for key, (there, ours) in pairs.items())
