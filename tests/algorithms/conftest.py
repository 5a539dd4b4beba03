"""A cast that computes nothing: each role's call is noted, and what it gives is the note itself, so that notes show what went where."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from disback_ray.algorithms.cast import Cast

Note = tuple[Any, ...]
"""('generator.propose', argument, …, ('node', 3)): the call, with the notes that it was given."""


@dataclass(frozen=True)
class Notes:
    """The cast, and its calls in the order in which they were made."""

    cast: Cast
    calls: list[Note]


class Role:
    def __init__(self, name: str, calls: list[Note]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, method: str) -> Callable[..., Note]:
        def call(*args: Any, **named: Any) -> Note:
            self._calls.append((f"{self._name}.{method}", *args, *named.items()))
            return self._calls[-1]

        return call


@pytest.fixture
def notes() -> Notes:
    calls: list[Note] = []
    return Notes(Cast(*(Role(name, calls) for name in ("teacher", "path_node", "fake_score", "generator"))), calls)
