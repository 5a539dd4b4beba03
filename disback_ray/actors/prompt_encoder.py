"""The role that encodes the prompts, before the cast is placed: its process ends with its work, and the device is free again."""

from collections.abc import Callable
from typing import Any

from disback_ray.actors.calls import looks
from disback_ray.data.prompts import Precision
from disback_ray.device import best_device
from disback_ray.networks.prompt_table import INDEX, SHARD, TEXTS
from disback_ray.storage import Folder
from disback_ray.teachers.prompt_encoding import TextEncoders, encoded, encoded_nothing, load_encoders

Proof = dict[str, Any]


class PromptEncoder:
    """A pipeline's text encoders, which fill a table shard by shard."""

    def __init__(self, table: Folder, pipeline: Folder, *, embeddings: Precision, encoders: TextEncoders | None = None) -> None:
        """table: has the prompts' texts. encoders: the pipeline's, where they are loaded already.

        Raises CheckpointError where a folder is not whole.
        """
        self.table = table
        self.texts: list[str] = table.read_json(TEXTS)
        self.embeddings: Precision = embeddings
        self.encoders = encoders or load_encoders(pipeline, device=best_device())

    @looks
    def shards(self) -> int:
        """How many there are to be encoded."""
        return -(-len(self.texts) // SHARD)

    @looks
    def encode(self, shard: int) -> Proof:
        """Writes a shard; returns what proves it whole. Raises CheckpointError."""
        texts = self.texts[shard * SHARD : (shard + 1) * SHARD]
        return self.table.write_tensors(
            f"prompts-{shard:06d}.safetensors", encoded(self.encoders, texts, embeddings=self.embeddings)
        )

    @looks
    def finish(self, shards: list[Proof]) -> dict[str, float]:
        """Writes what the U-Net hears of no prompt, and the index, last. Raises CheckpointError."""
        nothing = self.table.write_tensors(
            "unconditional.safetensors", encoded_nothing(self.encoders, embeddings=self.embeddings)
        )
        self.table.write_json(INDEX, {"count": len(self.texts), "unconditional": nothing, "shards": shards})
        return {}


def encode_all(encoder: Any, *, wait: Callable[[Any], Any], report: Callable[[int, int], None]) -> None:
    """Fills the table. encoder: a PromptEncoder, or its proxy; report: told how many shards of how many are done; may raise to stop."""
    shards = wait(encoder.shards())
    proofs = []
    for shard in range(shards):
        proofs.append(wait(encoder.encode(shard)))
        report(shard + 1, shards)
    wait(encoder.finish(proofs))
