"""What `torch.save` wrote, read without torch's loader, which a hostile file can hold up for hours or have allocate any size.

Both formats (torch/serialization.py): the zip of today, and the row of pickles from before torch 1.6, which EDM's storages have still.
The pickles go through our inert interpreter, and no tensor is made before its bytes are known to be in the file.
"""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from disback_ray.errors import CheckpointError
from disback_ray.teachers.inert_pickle import Built, Constructor, Symbol, read_pickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
MAX_DIMENSIONS = 8
_ZIP = b"PK\x03\x04"
_DAMAGES = (zipfile.BadZipFile, struct.error, EOFError, LookupError, OverflowError, RuntimeError, ValueError)
_TYPES = {
    "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip


def read_state_dict(source: str | os.PathLike[str] | BinaryIO) -> dict[str, Tensor]:
    """Names and tensors, on the CPU, of the types in the file. Raises what read_torch_file does, and where it holds anything else."""
    content = read_torch_file(source)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError("not a state dict of names and tensors")
    return dict(content)


def read_torch_file(source: str | os.PathLike[str] | BinaryIO) -> Any:
    """The plain values and tensors that were saved; a storage is a flat tensor. The tensors take no more memory than the file has bytes.

    Raises CheckpointError where the file can't be read, is damaged, or asks for anything but tensors: the symbol is named.
    """
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as stream:
                return _read(stream)
        return _read(source)
    except OSError as error:
        raise CheckpointError(f"can't be read ({error.strerror or type(error).__name__})") from None
    except _DAMAGES as error:
        reason = ascii(" ".join(str(error).split()) or type(error).__name__)[1:-1]
        raise CheckpointError(f"damaged, or no file of torch's ({reason:.120})") from None


def _read(stream: BinaryIO) -> Any:
    start = stream.tell()
    budget = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    zipped = stream.read(len(_ZIP)) == _ZIP
    stream.seek(start)
    return _read_zip(stream, budget) if zipped else _read_row(stream, budget)


def _read_zip(stream: BinaryIO, budget: int) -> Any:
    """One folder: data.pkl, and data/KEY for each storage."""
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two members of one name")
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} members named data.pkl, not one pickle")
        folder = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            member = members[name]
            # torch stores its members as they are; one that unpacks to more bytes than the file has is no work of its.
            if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size <= budget:
                raise ValueError("a member that isn't stored as it is")
            return archive.read(member)

        if f"{folder}byteorder" in members and read(f"{folder}byteorder") != b"little":
            raise CheckpointError("written on a big-endian machine: save it again on another")

        def fill(flat: Tensor, key: str) -> None:
            _fill(flat, read(f"{folder}data/{key}"))

        tensors = _Tensors(budget, fill)
        return read_pickle(read(pickles[0]), tensors.constructors(), persistent=tensors.storage)


def _read_row(stream: BinaryIO, budget: int) -> Any:
    """Five pickles: magic number, version, the machine, what was saved, the storages' keys. Then each storage, its length before it."""

    def plain(most: int = 100) -> Any:
        return read_pickle(stream, {}, most=most)

    if plain() != MAGIC or plain() != PROTOCOL:
        raise ValueError("neither a zip nor torch's older format")
    machine = plain()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("written on a big-endian machine: save it again on another")
    tensors = _Tensors(budget)
    content = read_pickle(stream, tensors.constructors(), persistent=tensors.storage)
    keys = plain(most=10 + 5 * len(tensors.flat))  # a text, its place in the memo, and marks
    # Texts before they are compared: two tuples of tuples, alike to the last, are compared in 2^depth steps that no Ctrl-C ends.
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(tensors.flat):
        raise ValueError("its storages are others than its tensors'")
    for key in keys:
        flat = tensors.flat[key]
        if int.from_bytes(stream.read(8), "little") != flat.numel():
            raise ValueError("a storage of another length than its tensors'")
        _fill(flat, stream.read(flat.nbytes))
    return content


def _fill(flat: Tensor, data: bytes) -> None:
    if len(data) != flat.nbytes:  # numpy would spread a single byte over all
        raise ValueError("a storage of other bytes than its tensors'")
    flat.view(torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8)


class _Tensors:
    """The storages that a file's tensors are views of, each made once, and the little that the file may have called."""

    def __init__(self, budget: int, fill: Callable[[Tensor, str], None] | None = None) -> None:
        """budget: bytes, of all storages and of all tensors. fill: reads the numbers of a storage, in place, by its key."""
        self.left, self.views, self.fill = budget, TensorBudget(budget), fill
        self.flat: dict[str, Tensor] = {}

    def constructors(self) -> Mapping[str, Constructor]:
        storages = {f"torch.{name}Storage": _not_called for name in _TYPES}
        rebuild = {"torch._utils._rebuild_tensor": self.views.tensor, "torch._utils._rebuild_tensor_v2": self.views.tensor}
        return {"collections.OrderedDict": _Names, "torch._utils._rebuild_parameter": parameter, **rebuild, **storages}

    def storage(self, identity: Any) -> Tensor:
        """identity: ('storage', its type, its key, where it was, its length), and in the older format a view, of which there are none."""
        kind, symbol, key, _, length, *view = identity if isinstance(identity, tuple) and len(identity) in (5, 6) else [None] * 5
        if kind != "storage" or not isinstance(symbol, Symbol) or not isinstance(key, str) or view not in ([], [None]):
            raise TypeError("a reference that is not to a storage")
        dtype = _TYPES.get(symbol.name.removeprefix("torch.").removesuffix("Storage"))
        if dtype is None or type(length) is not int or length < 0:
            raise TypeError("a storage that doesn't hold numbers")
        if key not in self.flat:
            self.left -= length * dtype.itemsize
            if self.left < 0:
                raise ValueError("its storages are larger than the file")
            self.flat[key] = torch.empty(length, dtype=dtype)
            if self.fill:
                self.fill(self.flat[key], key)
        if self.flat[key].dtype != dtype or len(self.flat[key]) != length:
            raise ValueError("a storage of two types or lengths")
        return self.flat[key]


class TensorBudget:
    """Rebuilds tensors as views of flat ones, of no more bytes together than `budget`.

    In a network's checkpoint each has numbers of its own; weights that several names share, and expanded ones, may be refused.
    """

    def __init__(self, budget: int) -> None:
        self.left = budget

    def tensor(
        self, flat: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None, metadata: Any = None
    ) -> Tensor:
        """torch._utils._rebuild_tensor_v2. Raises TypeError or ValueError for what would not lie in `flat`."""
        if not isinstance(flat, Tensor) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise TypeError("a tensor that is not made of a storage and its dimensions")
        numbers = (offset, *size, *stride)
        if len(size) > MAX_DIMENSIONS or not all(type(number) is int for number in numbers):
            raise TypeError(f"a tensor that is not made of a storage and at most {MAX_DIMENSIONS} dimensions")
        # Strides of 0 would let a small storage unfold to any size; as_strided checks the bounds.
        if min(numbers) < 0 or math.prod(size) > flat.numel():
            raise ValueError("a tensor larger than its storage")
        self.left -= math.prod(size) * flat.itemsize
        if self.left < 0:
            raise ValueError("its tensors are larger than the file")
        try:
            return flat.as_strided(size, stride, offset)
        except RuntimeError:
            raise ValueError("a tensor outside its storage") from None


class _Names(dict[str, Any], Built):
    """An OrderedDict; its state (a module's `_metadata`) is not looked at."""

    def __init__(self) -> None:
        Built.__init__(self)


def parameter(tensor: Any, requires_grad: Any = False, hooks: Any = None) -> Tensor:
    """torch._utils._rebuild_parameter. Raises TypeError for anything but a tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError("a parameter that is not a tensor")
    return tensor


def _not_called(*_: object) -> object:
    raise TypeError("a call of a storage's type")
