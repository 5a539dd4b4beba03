"""Who is slow is named, once; chance is not."""

from disback_ray.actors.slowness import Slowness


def calls(role: str, *seconds: float) -> list[tuple[str, str, float]]:
    return [(role, "score", each) for each in seconds]


def test_a_role_that_takes_several_times_what_it_took_is_named_once() -> None:
    slowness = Slowness()
    assert slowness.note(calls("teacher", *[0.2] * 5) + calls("generator", *[0.2] * 5)) == []
    slow = calls("teacher", *[1.0] * 5) + calls("generator", *[0.3] * 5)
    assert slowness.note(slow) == ["teacher is slow: score takes 1 s, 5 times what it took before"]
    assert slowness.note(slow) == [], "it is known by now"
    assert slowness.note(calls("teacher", *[0.2] * 5)) == []
    assert len(slowness.note(slow)) == 1, "it had been quick again"


def test_neither_one_late_call_nor_milliseconds_count() -> None:
    slowness = Slowness()
    slowness.note(calls("teacher", *[0.01] * 5))
    assert slowness.note(calls("teacher", *[0.01] * 4, 60.0)) == []
    assert slowness.note(calls("teacher", *[0.1] * 9)) == []
    assert slowness.note(calls("teacher", 60.0, 60.0)) == [], "too few"
