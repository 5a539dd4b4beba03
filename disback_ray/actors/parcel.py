"""A call's arguments as they go over Ray: those that other roles give, and all else as one. Knows no Ray.

Ray serialises each argument by itself, and a named one as two; and the driver's time for a call is what limits how many roles it can
drive. Lists and dictionaries of plain values are what Ray serialises fastest.
"""

from collections.abc import Callable, Sequence
from typing import Any

Parcel = list[Any]
"""The turn, the method, the arguments by place, those by name, and where the results of other roles come among both."""


def parcelled(
    turn: int, method: str, args: Sequence[Any], kwargs: dict[str, Any], *, comes_later: Callable[[Any], bool]
) -> tuple[Parcel, list[Any]]:
    """(what is known already, the references to the rest, which Ray puts results in place of)."""
    places: list[int | str] = [
        *(place for place, value in enumerate(args) if comes_later(value)),
        *(name for name, value in kwargs.items() if comes_later(value)),
    ]
    known = [None if comes_later(value) else value for value in args]
    named = {name: None if comes_later(value) else value for name, value in kwargs.items()}
    later = [kwargs[place] if isinstance(place, str) else args[place] for place in places]
    return [turn, method, known, named, places], later


def opened(parcel: Parcel, results: Sequence[Any]) -> tuple[int, str, list[Any], dict[str, Any]]:
    """The turn, the method, and all its arguments."""
    turn, method, known, named, places = parcel
    for place, result in zip(places, results, strict=True):
        (named if isinstance(place, str) else known)[place] = result
    return turn, method, known, named
