"""A call's arguments on their way over Ray."""

from dataclasses import dataclass

import pytest

from disback_ray.actors.parcel import opened, parcelled


@dataclass(frozen=True)
class Later:
    """A reference to what another role gives."""

    name: str


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((3, None, [4]), {"node": 2, "blend": None}),
        ((Later("x"), Later("y"), None), {"node": 2, "left": Later("z")}),
        ((1, Later("x"), Later("x")), {"step": Later("y")}),
    ],
)
def test_what_comes_later_comes_where_it_was(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    parcel, later = parcelled(7, "score", args, kwargs, comes_later=lambda value: isinstance(value, Later))
    assert all(isinstance(each, Later) for each in later)
    assert "Later" not in repr(parcel), "Ray sees no reference that is packed away"
    there = [f"the value of {each.name}" for each in later if isinstance(each, Later)]

    def come(value: object) -> object:
        return f"the value of {value.name}" if isinstance(value, Later) else value

    expected = [come(value) for value in args], {name: come(value) for name, value in kwargs.items()}
    assert opened(parcel, there) == (7, "score", *expected)
    with pytest.raises(ValueError, match="zip"):
        opened(parcel, [*there, "one too many"])
