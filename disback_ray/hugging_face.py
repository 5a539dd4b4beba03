"""diffusers, transformers, peft and accelerate, imported when first needed: the extra `disback-ray[diffusers]`."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from disback_ray.errors import ConfigError
from disback_ray.torchvision_shim import declare_missing_operators


def diffusers() -> Any:
    """Raises ConfigError where it is not installed."""
    return _imported("diffusers")


def transformers() -> Any:
    """Raises ConfigError where it is not installed."""
    return _imported("transformers")


def peft() -> Any:
    """Raises ConfigError where it is not installed."""
    return _imported("peft")


def accelerate() -> Any:
    """Raises ConfigError where it is not installed."""
    return _imported("accelerate")


@lru_cache
def _imported(name: str) -> Any:
    declare_missing_operators()  # transformers imports torchvision
    try:
        with warnings.catch_warnings(), _without_quantizers():
            warnings.simplefilter("ignore")  # theirs, about each other
            module = importlib.import_module(name)
            if name == "diffusers":
                importlib.import_module("diffusers.loaders.peft")  # which its models import, and which imports peft
            if name in ("diffusers", "transformers"):
                theirs = importlib.import_module(f"{name}.utils.logging")
                theirs.set_verbosity(logging.CRITICAL)  # at length they log what they raise as well
                theirs.disable_progress_bar()
    except ModuleNotFoundError as error:
        if error.name not in ("diffusers", "transformers", "peft", "accelerate"):
            raise
        raise ConfigError(
            f"{error.name} is not installed, and this teacher needs it: pip install 'disback-ray[diffusers]'"
        ) from None
    return module


@contextmanager
def _without_quantizers() -> Iterator[None]:
    """diffusers and peft import bitsandbytes where it is installed, and that torch's compiler: 4 s of CPU in each role, for nothing.

    Where it is hidden while they look for it, they do without. Optimisers with 8-bit moments import it later, for themselves. Once one
    of them has looked, it counts on what it found.
    """
    hides = not {"bitsandbytes", "accelerate", "diffusers", "peft", "transformers"} & sys.modules.keys()
    if hides:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hides:
            del sys.modules["bitsandbytes"]
