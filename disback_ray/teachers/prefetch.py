"""Reads the path's next node ahead, so that switching to it only copies."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from disback_ray.errors import DisbackError
from disback_ray.teachers.path_copies import PathCopies


@dataclass(frozen=True)
class _Read:
    """A node that is being read: its SHA-256 and its weights, later."""

    node: int
    weights: Future[tuple[str, dict[str, Tensor]]]


class Prefetch:
    """At most one node in host memory, read by a thread while the device goes on scoring."""

    def __init__(self, copies: PathCopies) -> None:
        self.copies = copies
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self.ahead: _Read | None = None

    def begin(self, node: int) -> None:
        """Starts to read a node, in place of any other. What goes wrong is said by take()."""
        if self.ahead is None or self.ahead.node != node:
            self.ahead = None
            self.ahead = _Read(node, self.threads.submit(self._read, node))

    def take(self, node: int) -> dict[str, Tensor]:
        """The node's weights, in host memory, and kept there no longer.

        Read now unless they were read ahead and are still what is on disk. Raises CheckpointError.
        """
        ahead = self.ahead
        if ahead is not None and ahead.node == node:
            self.ahead = None
            try:
                proof, tensors = ahead.weights.result()
                if proof == self.copies.proof(node):
                    return tensors
            except DisbackError:
                pass  # it may be there by now; if not, reading it says why
        return self._read(node)[1]

    def _read(self, node: int) -> tuple[str, dict[str, Tensor]]:
        proof = self.copies.proof(node)
        tensors = self.copies.read(node)
        if torch.cuda.is_available():  # from pinned memory the copy to the device is several times as fast
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return proof, tensors
