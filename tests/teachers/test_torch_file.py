"""Files of torch.save's: what torch.load gives for honest ones, and a refusal, soon, for those that its loader doesn't bound."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.teachers.torch_file import read_state_dict, read_torch_file

TYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def saved(content: object, *, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def honest() -> dict[str, Any]:
    torch.manual_seed(0)
    flat = torch.randn(12)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    return {
        "every type": {str(dtype): (torch.randn(2, 3) * 3).to(dtype) for dtype in TYPES},
        "a module's state": network.state_dict(),
        "parameters": OrderedDict(network.named_parameters()),
        "views of one storage": {"a": flat[:6].view(2, 3), "b": flat[6:].view(3, 2).T, "c": flat.new_zeros(0)},
        "no dimensions": {"a": torch.tensor(3.5), "b": torch.zeros(0, 4)},
        "plain values beside": {"step": 3, "rate": 1e-3, "names": ["a", ("b", None, True)], "state": {"w": flat}},
        "one tensor": flat,
    }


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, Tensor):
        return (
            isinstance(ours, Tensor) and ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)
        )
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("kind", honest())
def test_honest_files_hold_what_torch_finds_in_them(kind: str, old: bool) -> None:
    data = saved(honest()[kind], old=old)
    assert same(read_torch_file(io.BytesIO(data)), torch.load(io.BytesIO(data), weights_only=True))


def test_a_stream_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"before" + saved({"a": torch.ones(2)}, old=True))
    stream.seek(6)
    assert torch.equal(read_state_dict(stream)["a"], torch.ones(2))


@pytest.mark.parametrize("content", [[torch.ones(2)], {1: torch.ones(2)}, {"a": {"b": torch.ones(2)}}, {"a": 1}])
def test_a_state_dict_is_names_and_tensors(content: object) -> None:
    with pytest.raises(CheckpointError, match="not a state dict of names and tensors"):
        read_state_dict(io.BytesIO(saved(content)))


# ---- what a hostile file may try


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def changed(suffix: str, change: Callable[[bytes], bytes], content: object = None) -> bytes:
    parts = members(saved({"a": torch.ones(4)} if content is None else content))
    (name,) = (name for name in parts if name.endswith(suffix))
    assert change(parts[name]) != parts[name]
    return zipped(parts | {name: change(parts[name])})


def program(code: bytes) -> dict[str, bytes]:
    """Both formats, with this pickle as what was saved."""
    row = saved(0, old=True)
    start = row.rindex(b"\x80\x02K\x00.")
    return {"zip": zipped({"archive/data.pkl": code, "archive/version": b"3\n"}), "older": row[:start] + code + row[start + 5 :]}


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


DOUBLED = b")" + b"q\x00h\x00\x86" * 60  # a tuple of two of the one before, sixty times: 2^60 to print, compare or hash
PROGRAMS = {
    # torch's loader searches its own complaint for a name with a regular expression, in the square of its length.
    "a name without an end": (b"\x80\x02c" + b"x" * 400_000 + b"\nname\n.", "it asks for xxxx"),
    "a tuple that is called": (b"\x80\x02" + DOUBLED + b")R.", "a call of something that is not a symbol"),
    "a tuple as a key": (b"\x80\x02}" + DOUBLED + b"K\x01s.", "a dictionary key that is not text"),
    "bytes of any size": (b"\x80\x02cbuiltins\nbytearray\n" + number(1 << 46) + b"\x85R.", "it asks for builtins.bytearray"),
    "a tensor of any size": (b"\x80\x02ctorch\nFloatTensor\n" + number(1 << 44) + b"\x85\x81.", "it asks for torch.FloatTensor"),
    "a storage that is called": (b"\x80\x02ctorch\nFloatStorage\n" + number(1 << 44) + b"\x85R.", "a call of a storage's type"),
    "another module's": (pickle.dumps(Call(print, "executed"), protocol=2), "it asks for __builtin__.print"),
    "a reference to nothing": (b"\x80\x02K\x01Q.", "a reference that is not to a storage"),
    "a module of the file's": (b"\x80\x02(X\x06\x00\x00\x00moduleNNNNtQ.", "a reference that is not to a storage"),
}


@pytest.mark.parametrize("layout", ["zip", "older"])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs_are_refused_unread(kind: str, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, says = PROGRAMS[kind]
    with pytest.raises(CheckpointError, match=says) as caught:
        read_torch_file(io.BytesIO(program(code)[layout]))
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
    assert capsys.readouterr().out == ""


def grown(pickled: bytes) -> bytes:
    for end in (b"tq", b"Ntq"):
        pickled = pickled.replace(b"K\x04" + end, number(1 << 40) + end)
    return pickled


HONEST_ROW = saved({"a": torch.ones(4)}, old=True)
KEY_END = HONEST_ROW.rindex(b"q\x01a.")  # of the only storage's key, in the list behind the pickle
FILES: dict[str, tuple[bytes, str]] = {
    "a storage larger than the file": (changed("data.pkl", grown), "storages are larger than the file"),
    "the same in a row": (grown(HONEST_ROW), "storages are larger than the file"),
    "a storage longer than its numbers": (changed("data/0", lambda data: data[:-1]), "damaged"),
    "the same in the row": (HONEST_ROW[:-1], "damaged"),
    "a storage that ends after one byte": (changed("data/0", lambda data: data[:1]), "other bytes than its tensors'"),
    "the same, a row that is cut off": (HONEST_ROW[:-15], "other bytes than its tensors'"),
    "keys of several kinds": (HONEST_ROW[:KEY_END] + b"q\x01aK\x01a." + HONEST_ROW[KEY_END + 4 :], "its storages are others"),
    "keys that are long to compare": (HONEST_ROW[: HONEST_ROW.rindex(b"]")] + b"](" + 2 * DOUBLED + b"e.", "more than 15 operations"),
    "keys that are no texts": (HONEST_ROW[: HONEST_ROW.rindex(b"]")] + b"]K\x01a.", "its storages are others"),
    "numbers without a storage": (HONEST_ROW[: KEY_END - 1] + b"x" + HONEST_ROW[KEY_END:], "its storages are others than its tensors'"),
    "a member that unpacks": (zipped(members(saved({"a": torch.zeros(4096)})), compression=zipfile.ZIP_DEFLATED), "damaged"),
    "no storage": (zipped({name: part for name, part in members(saved({"a": torch.ones(4)})).items() if "data/" not in name}), "damaged"),
    "two archives": (zipped({f"{name}/data.pkl": b"\x80\x02}." for name in "ab"}), "not one pickle"),
    "big-endian": (changed("byteorder", lambda _: b"big"), "written on a big-endian machine"),
    "one tensor of a thousand names": (
        changed("data.pkl", lambda data: b"\x80\x02}" + b"(" + b"".join(
            b"X\x04\x00\x00\x00%04d" % index + data[data.index(b"ctorch._utils"):data.rindex(b"s.")] for index in range(1000)
        ) + b"u.", {"a": torch.ones(1 << 16)}),
        "tensors are larger than the file",
    ),
    "a negative step": (changed("data.pkl", lambda data: data.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85")), "larger than its storage"),
    "a flipped bit": (saved({"a": torch.ones(4096)}).replace(struct.pack("<f", 1), struct.pack("<f", 1.5), 1), "damaged"),
    "nothing": (b"", "no end|damaged"),
    "a zip of nothing": (zipped({"archive/version": b"3"}), "not one pickle"),
    "a pickle alone": (pickle.dumps({"a": 1}, protocol=2), "neither a zip nor torch's older format"),
    "another version": (HONEST_ROW.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03."), "neither a zip nor"),
    "a list of numbers": (saved(torch.ones(2).to_sparse()), "it asks for torch._utils._rebuild_sparse_tensor"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_that_lie_are_refused(kind: str) -> None:
    data, says = FILES[kind]
    assert data != HONEST_ROW
    with pytest.raises(CheckpointError, match=says) as caught:
        read_torch_file(io.BytesIO(data))
    assert len(str(caught.value)) < 300
