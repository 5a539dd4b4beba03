"""How a node of the path lies on disk: as it is, in bfloat16, in int8, or as its difference to the teacher at a low rank.

Only trained matrices and convolutions are stored smaller: vectors, frequencies and filters are a thousandth of the weights.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from disback_ray.errors import CheckpointError

NodeKind = Literal["fp32", "bf16", "int8", "low_rank"]
Base = Callable[[], tuple[str, Mapping[str, Tensor]]]
"""The teacher's weights, with their SHA-256; asked for only by a low rank."""

PARTS = ("bf16", "int8", "scale", "left", "right")
"""End the names of what a weight is stored as: NAME:PART."""
LEVELS = 127
"""Of an int8 on each side of 0."""


@dataclass(frozen=True)
class NodeStorage:
    """kind: fp32 is the weights as they are in training; rank: of low_rank."""

    kind: NodeKind = "fp32"
    rank: int = 8

    def pack(self, weights: Mapping[str, Tensor], *, matrices: Collection[str], base: Base) -> tuple[dict[str, Tensor], Any]:
        """What the file holds, and what the JSON beside it says of that: None where it is the weights as they are.

        matrices: the names of what may be stored smaller. Raises CheckpointError where a weight has NaN or Inf.
        """
        if self.kind == "fp32":
            return dict(weights), None
        says: dict[str, Any] = {"kind": self.kind}
        teacher: Mapping[str, Tensor] = {}
        if self.kind == "low_rank":
            says["rank"] = self.rank
            says["base"], teacher = base()
        packed: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            parts = self._parts(name, tensor.detach().cpu(), teacher) if name in matrices else {}
            smaller = 0 < sum(part.nbytes for part in parts.values()) < tensor.nbytes
            packed |= {f"{name}:{part}": value for part, value in parts.items()} if smaller else {name: tensor}
        return packed, says

    def _parts(self, name: str, tensor: Tensor, teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"recording.store: {self.kind}: {name} has NaN or Inf: lower recording.optimiser.lr, or set its clip"
            )
        if self.kind == "bf16":
            return {"bf16": tensor.bfloat16()}
        if self.kind == "int8":
            return quantised(tensor.float())
        return halves((tensor.double() - teacher[name].double()).flatten(1), self.rank)


WHOLE = NodeStorage()


def quantised(matrix: Tensor) -> dict[str, Tensor]:
    """Integers and a scale for each output channel, so that its largest weight is 127: off by half a scale at most.

    matrix: [out, …], float32.
    """
    scale = matrix.flatten(1).abs().amax(1) / LEVELS
    steps = matrix / _along(torch.where(scale > 0, scale, 1.0), matrix)
    return {"int8": steps.round().clamp(-LEVELS, LEVELS).to(torch.int8), "scale": scale}


def halves(matrix: Tensor, rank: int) -> dict[str, Tensor]:
    """The product of [m, rank] and [rank, n] that is nearest to a matrix in the Frobenius norm (Eckart & Young 1936).

    matrix: [m, n], float64, projected on its `rank` first singular vectors of the shorter side, which are those of M Mᵀ: a
    convolution's matrix is long, and its singular values all at once (torch.linalg.svd) would take many times as long.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    first = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -rank:]
    rest = first.T @ wide
    left, right = (first, rest) if wide is matrix else (rest.T, first.T)
    return {"left": left.float().contiguous(), "right": right.float().contiguous()}


def unpacked(tensors: Mapping[str, Tensor], says: Any, *, base: Base, where: str) -> dict[str, Tensor]:
    """The weights that pack() was given, as near as they were kept. Raises CheckpointError where that can't be.

    says: what pack() said; where: for the message.
    """
    try:
        kind = says["kind"]
        teacher: Mapping[str, Tensor] = {}
        if kind == "low_rank":
            sha256, teacher = base()
            if says["base"] != sha256:
                raise CheckpointError(
                    f"{where}: kept as its difference to other weights of the teacher: {says['base'][:12]}, not {sha256[:12]}"
                )
        if kind not in get_args(NodeKind):
            raise CheckpointError(f"{where} is damaged: its storage is {kind!r:.40}, not {', '.join(get_args(NodeKind))}")
        return dict(whole for key in tensors if (whole := _whole(key, tensors, teacher)))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{where} is damaged: its weights are not stored as it says: {' '.join(str(error).split())[:100]}"
        ) from None


def _whole(key: str, tensors: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """A weight's name and values from its first part; None for the second. In types that go into the copy's own."""
    name, mark, part = key.rpartition(":")
    tensor = tensors[key]
    if not mark or part not in PARTS:
        return key, tensor
    if part == "bf16":
        return name, tensor.float()
    if part == "int8":
        return name, tensor * _along(tensors[f"{name}:scale"], tensor)
    if part == "left":
        like = teacher[name]
        return name, plus_product(like.float().flatten(1), tensor, tensors[f"{name}:right"]).reshape(like.shape)
    return None


def plus_product(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """M + L R, number by number: a product of torch's would be rounded otherwise with another number of threads."""
    total = matrix.clone()
    for column, row in zip(left.unbind(1), right.unbind(0), strict=True):
        total += column[:, None] * row[None]
    return total


def _along(scale: Tensor, matrix: Tensor) -> Tensor:
    """[out] beside [out, …]."""
    return scale.reshape(-1, *[1] * (matrix.ndim - 1))
