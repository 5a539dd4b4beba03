"""What a role does with its time and what it hands on: for each call when it ran, and how many bytes it gave. Knows no Ray."""

import dataclasses
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from disback_ray.actors.wire import Packed
from disback_ray.algorithms.noise import Batch

KEPT_SPANS = 50_000
"""Of a role, for the trace: the newest. A run of any length takes the same memory."""


@dataclass(frozen=True)
class Span:
    """One call. began, ended: seconds on the role's own clock; step, first: whose samples it was about; sent: bytes that it gave."""

    method: str
    began: float
    ended: float
    step: int | None
    first: int | None
    sent: int


@dataclass
class Total:
    """All calls of one method."""

    calls: int = 0
    seconds: float = 0.0
    sent: int = 0


@dataclass(frozen=True)
class Account:
    """A role's calls since the account before. clock: what its clock said then; dropped: spans that were too many to be kept."""

    totals: dict[str, Total]
    spans: list[Span]
    dropped: int
    clock: float

    @property
    def busy(self) -> float:
        """Seconds in calls."""
        return sum(total.seconds for total in self.totals.values())


@dataclass
class Timesheet:
    """Kept where the role is, so that keeping it sends nothing. trace: whether single calls are kept as well."""

    trace: bool = False
    totals: dict[str, Total] = field(default_factory=dict)
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=KEPT_SPANS))
    noted: int = 0

    @contextmanager
    def call(self, method: str, given: Sequence[Any]) -> Iterator[list[Any]]:
        """Notes a call of the block's length; what the block appends to the list is what the call gave."""
        gave: list[Any] = []
        began = time.monotonic()
        try:
            yield gave
        finally:
            if self.trace and torch.cuda.is_initialized():
                torch.cuda.synchronize()  # or the work shows in whichever later call waits for it
            ended, sent = time.monotonic(), sum(map(size, gave))
            total = self.totals.setdefault(method, Total())
            total.calls += 1
            total.seconds += ended - began
            total.sent += sent
            if self.trace:
                self.spans.append(Span(method, began, ended, *_about(given), sent))
                self.noted += 1

    def account(self) -> Account:
        """All since the last one, which is forgotten here."""
        account = Account(self.totals, list(self.spans), self.noted - len(self.spans), time.monotonic())
        self.totals, self.noted = {}, 0
        self.spans.clear()
        return account


def size(value: Any) -> int:
    """Bytes of the tensors in a value, also in a record's fields."""
    if isinstance(value, Packed):
        return int(value.array.nbytes)
    if isinstance(value, Tensor):
        return value.nbytes
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(size(getattr(value, each.name)) for each in dataclasses.fields(value))
    return 0


def _about(given: Sequence[Any]) -> tuple[int | None, int | None]:
    """The step, and the first sample of the micro-batch, that a call's first argument names."""
    first = given[0] if given else None
    batch = getattr(first, "batch", first)
    if isinstance(batch, Batch):
        return batch.step, batch.first
    return (batch, None) if isinstance(batch, int) else (None, None)
