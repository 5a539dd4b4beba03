"""Make torchvision importable beside a torch that its compiled library was not built for.

clean-fid imports torchvision, and the only torchvision to be had may be built for CUDA while torch is the CPU build.
Its library then can't load, and the import fails because two operators that it registers fake kernels for don't exist.
Declaring their schemas is enough: nothing here ever runs them.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.library import Library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Library] = []  # a Library that is collected takes its operators with it


def declare_missing_operators() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms`, once, where torchvision's library can't load; before its import."""
    if _declared or _own_library_loads():
        return
    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _declared.append(library)


def _own_library_loads() -> bool:
    spec = find_spec("torchvision")  # finds it without running it
    folders = (spec and spec.submodule_search_locations) or []
    for file in [Path(folder, "_C" + suffix) for folder in folders for suffix in EXTENSION_SUFFIXES]:
        if file.exists():
            try:
                torch.ops.load_library(file)
            except (ImportError, OSError):
                return False
            return True
    return False
