"""What Ray raises, read."""

import gc
import weakref

import pytest
import ray
from ray.exceptions import RayError

from disback_ray.actors.losses import error_of


class Calls:
    """What whoever asks has at hand."""


def test_an_error_that_is_handed_on_holds_nobody_s_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error's traceback holds the frames that it came through, and those the results that were asked for, which Ray keeps then."""

    def lost(ref: object) -> None:
        raise RayError("lost")

    def ask() -> "weakref.ref[Calls]":
        calls = Calls()
        error = error_of("a reference")
        assert str(error) == "lost"
        return weakref.ref(calls)

    monkeypatch.setattr(ray, "get", lost)
    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()
