"""What goes wrong in a role's call and is nobody's bug, told with what it takes to mend it or to see it again. Knows no Ray."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from disback_ray.algorithms.noise import Batch
from disback_ray.errors import DeviceMemoryError, NonFiniteError


@contextmanager
def told(role: str, method: str, args: Sequence[Any]) -> Iterator[None]:
    """Around a call. Raises DeviceMemoryError for torch's, which doesn't know whose memory it was; NonFiniteError gets its keys."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())[:160]
        raise DeviceMemoryError(
            f"{role} ran out of GPU memory in {method}: {reason}: raise micro_batches, lower batch, "
            f"or give it a larger GPU or one of its own (roles.{role} in the cluster file)",
            role,
        ) from None
    except NonFiniteError as error:
        error.keys = error.keys or {"role": role, "method": method, **keys_of(args)}
        raise


def keys_of(args: Sequence[Any]) -> dict[str, Any]:
    """(seed, stage, step, first, size) of the samples that a call was about, or the step that it was to end."""
    for arg in args:
        batch = arg if isinstance(arg, Batch) else getattr(arg, "batch", None)
        if isinstance(batch, Batch):
            return {"seed": batch.seed, "stage": batch.stage, "step": batch.step, "first": batch.first, "size": batch.size}
    return {"step": args[0]} if args and isinstance(args[0], int) else {}
