"""The gauge among Ray's own metrics: the share of the last seconds that a role spent in calls."""

from types import SimpleNamespace
from typing import Any

import pytest

from disback_ray.actors import busy


def test_the_gauge_is_the_share_of_the_seconds_since_it_was_last_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 104.0, 105.0, 105.0, 106.0, 115.0, 115.0])  # a second time where it was set
    told: list[tuple[str, float, dict[str, str]]] = []

    def gauge(name: str, **_: Any) -> Any:
        return SimpleNamespace(set=lambda value, tags: told.append((name, value, tags)))

    monkeypatch.setattr(busy, "Gauge", gauge)
    monkeypatch.setattr(busy, "time", SimpleNamespace(monotonic=clock.__next__))
    role = busy.Busy("fake_score")
    for spent in (1.5, 1.0, 0.5, 1.0, 20.0):
        role.add(spent)
    assert told == [
        ("disback_ray_role_busy", pytest.approx(3.0 / 5), {"role": "fake_score"}),
        ("disback_ray_role_busy", 1.0, {"role": "fake_score"}),
    ]  # fmt: skip
