"""Writes a denoiser of ours in the form of EDM's pickles, for our reader: there is no source code in it for the stock loader to run."""

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from disback_ray.networks.preconditioning import Preconditioning


class _Symbol:
    """A name in the file. Its module need not be there to be imported, and isn't."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *arguments: object) -> None:
        raise AssertionError("a name to be written, not to be called")


PERSISTENT = _Symbol("torch_utils.persistence", "_reconstruct_persistent_obj")
EASY_DICT = _Symbol("dnnlib.util", "EasyDict")


class _Persistent:
    """A module as EDM's classes pickle themselves: the class's name, and the state."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[_Symbol, tuple[dict[str, Any]]]:
        return PERSISTENT, (self.meta,)


class _EasyDict:
    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = entries

    def __reduce__(self) -> tuple[Any, ...]:
        return EASY_DICT, (), None, None, iter(self.entries.items())


class _Pickler(pickle._Pickler):
    """Python's own pickler; it alone can be taught to write a name without importing it."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def _save_symbol(self: Any, symbol: _Symbol) -> None:
        self.save(symbol.module)
        self.save(symbol.name)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(symbol)

    dispatch[_Symbol] = _save_symbol


def edm_pickle(denoiser: Preconditioning, arguments: Mapping[str, Any]) -> bytes:
    """The file of a denoiser that build_edm made of `arguments`; read_edm_pickle gives it back, bit for bit."""
    network = _as_edm(denoiser)
    network.meta["state"] |= {"_init_args": (), "_init_kwargs": _EasyDict(arguments)}
    file = io.BytesIO()
    content = {"ema": network, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": _EasyDict({})}
    _Pickler(file, protocol=4).dump(content)
    return file.getvalue()


def _as_edm(module: nn.Module) -> Any:
    children: dict[str, Any] = {name: None if child is None else _as_edm(child) for name, child in module._modules.items()}
    if isinstance(module, nn.ModuleDict):
        plain = nn.ModuleDict()
        plain._modules.update(children)
        return plain
    tensors = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    return _Persistent(type(module).__name__, {**tensors, "_modules": children})
