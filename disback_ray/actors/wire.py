"""What crosses between roles: tensors as numpy arrays, which Ray's object store holds once and every reader maps without a copy."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What Ray hands out is read-only shared memory; no role writes to what it was given.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


@dataclass(frozen=True)
class Packed:
    """A tensor on the wire; bfloat16, which numpy doesn't know, as its 16 bits."""

    array: np.ndarray[Any, Any]
    bfloat16: bool = False


def pack(value: Any) -> Any:
    """Tensors, also those in a record's fields and in a dictionary, → arrays in host memory."""
    if isinstance(value, Tensor):
        host = value.detach().cpu()
        if host.dtype == torch.bfloat16:
            return Packed(host.view(torch.uint16).numpy(), bfloat16=True)
        return Packed(host.numpy())
    return _each_field(value, pack)


def unpack(value: Any) -> Any:
    """The inverse of pack: tensors over the same, read-only memory."""
    if isinstance(value, Packed):
        tensor = torch.from_numpy(value.array)
        return tensor.view(torch.bfloat16) if value.bfloat16 else tensor
    return _each_field(value, unpack)


def _each_field(value: Any, change: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: change(getattr(value, field.name)) for field in dataclasses.fields(value)}
        # Settings and folders are records too: they pass as they are.
        same = all(changed[name] is getattr(value, name) for name in changed)
        return value if same else dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        given = {name: change(each) for name, each in value.items()}
        return value if all(given[name] is value[name] for name in value) else given
    return value
