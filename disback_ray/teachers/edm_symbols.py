"""The few symbols that EDM's pickles need, and what stands in for each: functions of ours that take inert values."""

import io
import struct
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.teachers.foreign_weights import FLOATS
from disback_ray.teachers.inert_pickle import Built, Constructor
from disback_ray.teachers.torch_file import TensorBudget, parameter, read_torch_file


class Module(Built):
    """A module in the file: its class by name, and its attributes as its state."""

    def __init__(self, class_name: str, state: Any = None) -> None:
        super().__init__()
        self.class_name = class_name
        self.state = state

    def children(self, kind: str) -> Mapping[str, Any]:
        """Its _parameters, _buffers, _modules or _init_kwargs."""
        entries = self.state.get(kind, {}) if isinstance(self.state, dict) else None
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise CheckpointError(f"a module whose {kind} can't be read")
        return entries


def constructors(*, budget: int) -> dict[str, Constructor]:
    """All that a file may ask for, and what stands in for it. `budget`: the bytes of storages that it may load."""
    left = budget

    def load_storage(blob: Any) -> Tensor:
        nonlocal left
        if not isinstance(blob, bytes):
            raise TypeError("a storage that is not bytes")
        # Each storage has its own bytes in the file; asking for the same ones again and again would add up.
        left -= len(blob)
        if left < 0:
            raise ValueError("its storages are larger than the file")
        return _storage(blob)

    return {
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "torch.nn.modules.container.ModuleDict": _empty_module,
        "collections.OrderedDict": _empty_dictionary,
        "dnnlib.util.EasyDict": _empty_dictionary,
        "torch.storage._load_from_bytes": load_storage,
        "torch._utils._rebuild_tensor_v2": TensorBudget(budget).tensor,
        "torch._utils._rebuild_parameter": parameter,
        "numpy.dtype": _Dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
    }


def _empty_dictionary() -> dict[str, Any]:
    return {}


def _empty_module() -> Module:
    return Module("ModuleDict")


def _persistent_object(meta: Any) -> Module:
    # `module_src`, the source code that the stock loader would execute, is not even looked at.
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise TypeError("a persistent object without a class name")
    return Module(meta["class_name"], meta.get("state"))


def _storage(blob: bytes) -> Tensor:
    """The storage in a file of torch's older format, as a flat tensor. torch's stock function would load it without restrictions."""
    try:
        flat = read_torch_file(io.BytesIO(blob))
    except CheckpointError as error:
        raise CheckpointError(f"a storage: {error}") from None
    if not isinstance(flat, Tensor) or flat.dtype not in FLOATS:
        raise TypeError("a storage that doesn't hold floating-point numbers")
    return flat


_NUMBERS = {"b1": "?", "i1": "b", "u1": "B", "i2": "h", "i4": "i", "i8": "q", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"}


class _Dtype(Built):
    """numpy's dtype of a number, which becomes Python's."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        super().__init__()
        if not isinstance(code, str) or code not in _NUMBERS:
            raise TypeError("a numpy type that is not a number's")
        self.code = code


def _scalar(dtype: Any, data: Any) -> object:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise TypeError("a numpy number that is not made of a type and bytes")
    big = isinstance(dtype.state, tuple) and ">" in dtype.state
    try:
        return struct.unpack((">" if big else "<") + _NUMBERS[dtype.code], data)[0]
    except struct.error:
        raise ValueError("a numpy number of another size than its type's") from None
