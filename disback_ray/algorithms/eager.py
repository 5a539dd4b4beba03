"""torch.optim without torch.compile's machinery, which this package never uses: 2 s of CPU and 80 MB for each process that trains."""

import inspect

import torch
from torch.optim import Optimizer

MARKED = ("add_param_group", "state_dict", "load_state_dict")
"""What torch keeps from being compiled: at its first call each looks up how, in an attribute that it sets itself."""


def leave_the_compiler_out() -> None:
    """To be called before an optimiser is made. Where torch keeps no such attribute any more, nothing is changed."""
    for name in MARKED:
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain


@torch.no_grad()
def step(optimiser: Optimizer) -> None:
    """optimiser.step(), beneath the wrappers in which torch.optim puts it for its compiler, its profiler and its hooks."""
    inspect.unwrap(type(optimiser).step)(optimiser)
