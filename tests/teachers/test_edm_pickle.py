"""EDM pickles: the right network, bit for bit, from honest ones; one refusal, and nothing executed, from hostile ones."""

import builtins
import codecs
import collections
import copyreg
import functools
import importlib
import io
import json
import operator
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from disback_ray.errors import CheckpointError
from disback_ray.networks.edm import build_edm
from disback_ray.teachers.edm_pickle import read_edm_pickle
from disback_ray.teachers.edm_symbols import constructors
from disback_ray.teachers.inert_pickle import read_pickle

PARITY = Path(__file__).parents[1] / "parity"
NAMES = ["edm_ddpmpp_uncond", "edm_ncsnpp_cond", "edm_adm_cond", "vp_ddpmpp_uncond", "ve_ncsnpp_uncond"]

fired: list[str] = []  # what the hostile files got executed: must stay empty


def canary(*arguments: object, **keywords: object) -> str:
    fired.append(repr(arguments))
    return "executed"


# ---- a writer of EDM's format: the same opcodes, symbols and structure as the owners' code leaves in a file


def _reconstruct_persistent_obj(meta: object) -> object:
    return canary(meta)


class EasyDict(dict[str, Any]):
    pass


class Persistent(nn.Module):
    """A module that pickles as its class name, its source code and its state."""

    class_name = "Linear"

    def __reduce__(self) -> Any:
        source = "import builtins\nbuiltins.edm_canary('module_src')\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": self.class_name, "state": self.__dict__}
        return _reconstruct_persistent_obj, (meta,), None

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The owners' modules can be imported, and every way in is trapped."""
    for module, symbol in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        fake = types.ModuleType(module)
        setattr(fake, symbol.__name__, symbol)
        monkeypatch.setattr(symbol, "__module__", module)
        monkeypatch.setitem(sys.modules, module.split(".")[0], types.ModuleType(module.split(".")[0]))
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(builtins, "edm_canary", canary, raising=False)
    fired.clear()
    yield
    assert not fired


def as_modules(weights: dict[str, Tensor], class_name: str) -> Persistent:
    """The tree of modules whose state dict is `weights`."""
    root = Persistent()
    root.class_name = class_name
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        module: nn.Module = root
        for part in path:
            if part not in module._modules:
                module._modules[part] = nn.ModuleDict() if part in ("enc", "dec") else Persistent()
            module = module._modules[part]  # type: ignore[assignment]
        if leaf in ("freqs", "resample_filter"):
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor))
            module.register_buffer("absent", None)
    return root


def write(weights: dict[str, Tensor], class_name: str, arguments: dict[str, Any], *, protocol: int = 4, **rest: Any) -> bytes:
    network = as_modules(weights, class_name)
    network._init_args, network._init_kwargs = (), EasyDict(arguments)
    content = {"ema": network, "loss_fn": Persistent(), "augment_pipe": None, "dataset_kwargs": EasyDict(path="x.zip")} | rest
    return pickle.dumps(content, protocol=protocol)


def parity(name: str) -> tuple[dict[str, Any], str, dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    weights = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    return json.loads(metadata["init_kwargs"]), metadata["precond"], weights, tensors


TINY = {
    "img_resolution": 4,
    "img_channels": 1,
    "model_type": "SongUNet",
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
}
TINY |= {"attn_resolutions": []}


def tiny(arguments: dict[str, Any] | None = None, *, class_name: str = "EDMPrecond", **rest: Any) -> bytes:
    """A small honest file, except for what is given."""
    weights = build_edm("EDMPrecond", TINY).state_dict()
    return write(weights, class_name, TINY | (arguments or {}), **rest)


# ---- honest files


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_reads_the_same_weights_and_computes_the_same(name: str) -> None:
    arguments, kind, weights, vectors = parity(name)
    state_of_the_generator = torch.get_rng_state()
    checkpoint = read_edm_pickle(write(weights, kind, arguments | {"use_fp16": True}))
    assert torch.equal(torch.get_rng_state(), state_of_the_generator)

    ours = checkpoint.denoiser.state_dict()
    assert ours.keys() == weights.keys()
    assert all(torch.equal(ours[key], weights[key]) and ours[key].dtype == torch.float32 for key in weights)
    assert not checkpoint.denoiser.training
    denoised = checkpoint.denoiser(vectors["x"], vectors["sigma"], vectors.get("labels"))
    assert (denoised - vectors["denoised"]).norm() < 1e-4 * vectors["denoised"].norm()

    assert (checkpoint.kind, checkpoint.resolution, checkpoint.channels) == (kind, 16, 3)
    assert checkpoint.label_dim == arguments["label_dim"]
    assert checkpoint.augment_dim == arguments.get("augment_dim", 0)
    assert checkpoint.use_fp16
    again = build_edm(checkpoint.kind, json.loads(json.dumps(checkpoint.arguments)))
    assert again.state_dict().keys() == weights.keys()


@pytest.mark.parametrize("protocol", [4, 5])
def test_reads_from_a_file_in_any_precision_and_protocol(tmp_path: Path, protocol: int) -> None:
    arguments, kind, weights, _ = parity("edm_ddpmpp_uncond")
    arguments["img_resolution"] = np.int64(arguments["img_resolution"])  # numpy's numbers occur in the owners' files
    path = tmp_path / "ema.pkl"
    data = write({key: value.half() for key, value in weights.items()}, kind, arguments, protocol=protocol)
    path.write_bytes(data)
    with path.open("rb") as file:
        checkpoint = read_edm_pickle(file)
    assert all(torch.equal(value, weights[key]) for key, value in checkpoint.denoiser.state_dict().items() if "freqs" not in key)


def test_a_network_of_the_file_can_be_trained_on() -> None:
    denoiser = read_edm_pickle(tiny()).denoiser
    denoiser(torch.ones(2, 1, 4, 4), torch.ones(2)).sum().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())


# ---- hostile and broken files


class Call:
    """What a stock unpickler would call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments
        self.symbol = f"{function.__module__}.{function.__qualname__}"

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def refused(data: bytes, *, says: str = "") -> None:
    with pytest.raises(CheckpointError) as caught:
        read_edm_pickle(data, name="bucket/ema.pkl")
    message = str(caught.value)
    assert message.startswith("bucket/ema.pkl: ")
    assert message.isprintable()
    assert len(message) < 350
    assert says in message
    assert not fired
    assert not Path("executed").exists()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TOUCH = "touch executed"
NUMPY_ARRAY = np.empty(1).__reduce__()[0]
CALLS = [
    Call(os.system, TOUCH),
    Call(os.remove, "executed"),
    Call(subprocess.Popen, ["touch", "executed"]),
    Call(eval, "edm_canary()"),
    Call(exec, "edm_canary()"),
    Call(compile, "edm_canary()", "x", "eval"),
    Call(__import__, "this"),
    Call(getattr, "", "format"),
    Call(setattr, "", "x", 1),
    Call(list, "ab"),
    Call(open, "executed", "w"),
    Call(importlib.import_module, "this"),
    Call(functools.partial, eval, "edm_canary()"),
    Call(operator.methodcaller, "upper"),
    Call(operator.attrgetter, "__class__"),
    Call(types.SimpleNamespace),
    Call(pickle.loads, pickle.dumps(Call(eval, "edm_canary()"))),
    Call(copyreg._reconstructor, object, object, None),  # type: ignore[attr-defined]
    Call(codecs.encode, "x", "utf-8"),
    Call(collections.Counter, "ab"),
    Call(torch.load, "executed"),
    Call(nn.Linear, 1, 1),
    Call(NUMPY_ARRAY, np.ndarray, (0,), b"b"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.symbol)
def test_a_call_is_refused_by_name_wherever_it_stands(call: Call) -> None:
    data = tiny(dataset_kwargs=call)
    refused(data, says=call.symbol)
    refused(pickle.dumps(call), says=call.symbol)
    refused(pickle.dumps(call, protocol=2), says=call.symbol.split(".")[-1])  # where builtins has its name in Python 2
    refused(tiny({"dropout": call}), says=call.symbol)


def test_the_stock_loader_would_have_executed_them() -> None:
    """The trap works: otherwise the tests above would prove nothing."""
    for data in (pickle.dumps(Call(eval, "edm_canary()")), tiny()):
        pickle.loads(data)
        assert fired
        fired.clear()


class As(Call):
    """A call of a name that need not exist."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        function = types.FunctionType((lambda: None).__code__, {})
        function.__module__, function.__qualname__ = module, name
        super().__init__(function, *arguments)


class NamesOnly(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes the names of functions without looking whether they exist."""

    def save_global(self, function: Any, name: Any = None) -> None:
        self.save(function.__module__)
        self.save(function.__qualname__)
        self.write(pickle.STACK_GLOBAL)

    dispatch = pickle._Pickler.dispatch | {types.FunctionType: save_global}  # type: ignore[attr-defined]


def dumps(content: Any) -> bytes:
    file = io.BytesIO()
    NamesOnly(file, protocol=4).dump(content)
    return file.getvalue()


def legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def evil_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Call(eval, "edm_canary()")))
        archive.writestr("archive/version", "3")
    return file.getvalue()


STORAGE = legacy(torch.zeros(4)._typed_storage())  # type: ignore[attr-defined]
LOAD = torch.storage._load_from_bytes  # type: ignore[attr-defined]
TENSOR, PARAMETER = torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter  # type: ignore[attr-defined]
MAGIC = STORAGE[: STORAGE.index(b"(X\x07\x00\x00\x00storage")]  # the legacy file up to its object
HUGE = STORAGE.replace(b"\x04\x00\x00\x00\x00\x00\x00\x00" + bytes(16), b"\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(16))

BLOBS = {
    "evil": (pickle.dumps(Call(eval, "edm_canary()"), protocol=2), "eval"),
    "evil in another protocol": (pickle.dumps(Call(eval, "edm_canary()")), "storage"),
    "evil object": (MAGIC + pickle.dumps(Call(eval, "edm_canary()"), protocol=2), "eval"),
    "evil zip": (evil_zip(), "storage"),
    "a list": (legacy([torch.zeros(4)]), "storage"),
    "integers": (legacy(torch.zeros(4, dtype=torch.int64)._typed_storage()), "storage"),  # type: ignore[attr-defined]
    "huge": (HUGE, "storage"),
    "cut off": (STORAGE[:-3], "storage"),
    "empty": (b"", "storage"),
    "garbage": (b"\x80\x02garbage", "storage"),
    "text": ("no bytes", "storage"),
}


@pytest.mark.parametrize("kind", BLOBS)
def test_a_storage_is_numbers_and_nothing_else(kind: str) -> None:
    blob, says = BLOBS[kind]
    assert blob != STORAGE
    refused(tiny(dataset_kwargs=Call(LOAD, blob)), says=says)


VALUES = {
    "persistent object without a class": As(
        "torch_utils.persistence", "_reconstruct_persistent_obj", {"module_src": "edm_canary()"}
    ),
    "persistent object of something else": As("torch_utils.persistence", "_reconstruct_persistent_obj", "edm_canary()"),
    "hook that installs hooks": As("torch_utils.persistence", "import_hook", eval),
    "source to module": As("torch_utils.persistence", "_src_to_module", "edm_canary()"),
    "lookalike of the hook": As("torch_utils.persistence", "_reconstruct_persistent_obj ", {}),
    "lookalike of dnnlib": As("dnnlib.util", "call_func_by_name", "eval"),
    "another dnnlib": As("dnnlib.utiI", "EasyDict"),
    "attribute of an allowed class": As("collections", "OrderedDict.fromkeys", "ab"),
    "attribute of an allowed function": As("torch._utils", "_rebuild_parameter.__globals__"),
    "attribute of the hook": As("torch_utils.persistence", "_reconstruct_persistent_obj.__code__"),
    "module as a class": As("numpy", "dtype.__class__"),
    "line break in a name": As("builtins\n", "eval\x1b[2J", "edm_canary()"),
    "EasyDict with arguments": As("dnnlib.util", "EasyDict", [("a", 1)]),
    "OrderedDict with arguments": As("collections", "OrderedDict", [("a", 1)]),
    "numpy object": As("numpy._core.multiarray", "scalar", As("numpy", "dtype", "O8"), pickle.dumps(Call(eval, "edm_canary()"))),
    "numpy number of another size": As("numpy._core.multiarray", "scalar", As("numpy", "dtype", "f8"), b"123"),
    "numpy number without a type": As("numpy.core.multiarray", "scalar", "f8", bytes(8)),
    "parameter of text": Call(PARAMETER, "text", True, {}),
    "tensor of text": Call(TENSOR, "text", 0, (4,), (1,), False, {}),
    "tensor without strides": Call(TENSOR, Call(LOAD, STORAGE), 0, (2, 2), (1,), False, {}),
    "tensor unfolded": Call(TENSOR, Call(LOAD, STORAGE), 0, (1 << 40,), (0,), False, {}),
    "tensor outside": Call(TENSOR, Call(LOAD, STORAGE), 1 << 40, (4,), (1,), False, {}),
    "tensor before": Call(TENSOR, Call(LOAD, STORAGE), -8, (4,), (1,), False, {}),
    "tensor negative": Call(TENSOR, Call(LOAD, STORAGE), 0, (-4, -1), (1, 1), False, {}),
    "tensor of many dimensions": Call(TENSOR, Call(LOAD, STORAGE), 0, (1,) * 99, (1,) * 99, False, {}),
    "tensor of floats": Call(TENSOR, Call(LOAD, STORAGE), 0.0, (4.0,), (1.0,), False, {}),
    "tensor of a number": Call(TENSOR, Call(LOAD, STORAGE), 0, 4, 1, False, {}),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_of_the_wrong_kind_is_refused(kind: str) -> None:
    refused(dumps({"ema": VALUES[kind]}))
    with pytest.raises(CheckpointError):  # the value itself, not only as a network
        read_pickle(dumps(VALUES[kind]), constructors(budget=1 << 20))


def test_the_same_storage_again_and_again_is_refused() -> None:
    large = legacy(torch.zeros(10_000)._typed_storage())  # type: ignore[attr-defined]
    refused(pickle.dumps([Call(LOAD, large) for _ in range(10)]), says="larger than the file")


ARGUMENTS: dict[str, dict[str, Any]] = {
    "an unknown name": {"backdoor": 1},
    "a name of 1 MB": {"x" * 1_000_000: 1},
    "another network": {"model_type": "__import__('os').system"},
    "no network": {"model_type": ["SongUNet"]},
    "another decoder": {"decoder_type": "skip"},
    "text for a number": {"model_channels": "128"},
    "a float for a number": {"num_blocks": 1.0},
    "a huge number": {"num_blocks": 1 << 60},
    "a huge image": {"img_resolution": 1 << 40},
    "a negative number": {"label_dim": -1},
    "no levels": {"channel_mult": []},
    "more levels than pixels": {"channel_mult": [1] * 8},
    "not a number": {"dropout": float("nan")},
    "nested": {"dropout": [[[[[[[[1]]]]]]]]},
    "another width": {"model_channels": 8},
    "another label_dim": {"label_dim": 3},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_that_are_not_the_networks_are_refused(kind: str) -> None:
    refused(tiny(ARGUMENTS[kind]))


@pytest.mark.parametrize("kind", ["iDDPMPrecond", "SongUNet", "os.system", "x" * 100_000, "\x1b[2J"])
def test_another_class_is_refused(kind: str) -> None:
    refused(tiny(class_name=kind))


def test_weights_that_do_not_fit_are_refused() -> None:
    weights = build_edm("EDMPrecond", TINY).state_dict()
    name = "model.map_layer0.weight"
    refused(write({key: value for key, value in weights.items() if key != name}, "EDMPrecond", TINY), says=name)
    refused(write(weights | {"model.map_layer9.weight": weights[name]}, "EDMPrecond", TINY), says="model.map_layer9.weight")
    refused(write(weights | {name: weights[name][:3]}, "EDMPrecond", TINY), says=name)


@pytest.mark.parametrize("content", [None, 1, [], {}, {"ema": None}, {"ema": {}}, {"EMA": Persistent()}, {"ema": Persistent()}])
def test_a_pickle_of_something_else_is_refused(content: Any) -> None:
    refused(pickle.dumps(content))


def test_modules_nested_without_end_are_refused() -> None:
    endless = nn.ModuleDict()
    endless._modules["again"] = endless
    refused_tree(endless)
    shared: nn.Module = Persistent()
    for _ in range(15):  # 4^15 paths in a file of a few kilobytes
        parent = Persistent()
        parent._modules |= {str(index): shared for index in range(4)}
        shared = parent
    refused_tree(shared)
    odd = Persistent()
    odd._modules["x"] = "text"  # type: ignore[assignment]
    refused_tree(odd)


def refused_tree(model: nn.Module) -> None:
    network = Persistent()
    network.class_name = "EDMPrecond"
    network._init_args, network._init_kwargs = (), dict(TINY)
    network._modules["model"] = model
    refused(pickle.dumps({"ema": network}))


def test_damage_is_refused_wherever_it_is() -> None:
    data = tiny()
    for place in range(0, len(data), len(data) // 60):
        refused(data[:place])
    refused(data[:-1])
    refused(data + b".")
    refused(b"")
    generator = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in generator.integers(0, len(data), size=20):
            broken[place] = generator.integers(0, 256)
        assert message_of(bytes(broken)).isprintable()


def message_of(data: bytes) -> str:
    try:
        read_edm_pickle(data)
    except CheckpointError as error:
        return str(error)
    return ""  # a flipped bit of a weight can't be seen
