"""Counts what a role's tensors hold and what its operators compute, while it plays on tensors without data."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

UNKNOWN = {torch.ops.aten._local_scalar_dense.default: 1.0, torch.ops.aten.is_nonzero.default: True}
"""What only data could tell, a norm or whether all is finite: taken to be 1 and true."""


class Held(NamedTuple):
    """Bytes of tensors at one moment: of all, and of the gradients among them."""

    all: int
    gradients: int


class Meter(TorchDispatchMode):
    """live, peak: of the storages that were made under it and still are; flops: of what was computed, a product counted twice.

    torch's own MemTracker (torch.distributed._tools) refuses a network that is called twice before it is gone backward through, as
    micro-batches do.
    """

    def __init__(self, *, files: Iterable[Tensor] = ()) -> None:
        """files: tensors in files that are read, which are not counted until a network makes them its own."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = Held(0, 0)
        self.flops = 0.0
        self._files = {tensor.untyped_storage()._cdata for tensor in files}
        self._known = set(self._files)
        self._gradients: set[int] = set()

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Counts those that are a file's still: a loader that assigns makes no copy."""
        for tensor in tensors:
            name = tensor.untyped_storage()._cdata
            if name in self._files:
                self._files.discard(name)
                self._add(tensor.untyped_storage().nbytes())

    def mark_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """From here on their gradients are told from all else, each from when it has become one."""
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._mark)

    def _mark(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        if storage._cdata not in self._gradients:
            self._gradients.add(storage._cdata)
            self._add(0, gradients=storage.nbytes())

    def restart(self) -> None:
        """From here on the peak and the FLOPs are counted anew."""
        self.peak, self.flops = self.live, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in UNKNOWN:
            return UNKNOWN[func]
        made = func(*args, **(kwargs or {}))
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name in self._known:
            return
        size = storage.nbytes()
        self._known.add(name)
        self._add(size)
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._add(-size, gradients=-size if name in self._gradients else 0)
        self._gradients.discard(name)

    def _add(self, size: int, *, gradients: int = 0) -> None:
        self.live = Held(self.live.all + size, self.live.gradients + gradients)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of different storages."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def state_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
