"""diffusers, transformers and peft, imported when first needed: the extra `disback-ray[diffusers]`."""

import importlib
import logging
import warnings
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


@lru_cache
def _imported(name: str) -> Any:
    declare_missing_operators()  # transformers imports torchvision
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # where it is there, peft imports it, and it says what it lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, about each other
            module = importlib.import_module(name)
            if name != "peft":
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
