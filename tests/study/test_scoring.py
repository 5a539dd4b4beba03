"""Who is on which side, and what the answers say of it."""

import json
from typing import Any

import pytest

from disback_ray.errors import CheckpointError
from disback_ray.study.pairs import Key, shuffle
from disback_ray.study.scoring import score

KEY = Key("name", ("a", "b"), 0, (2, 0, 1, 3), (True, False, True, False))


def saved(*choices: str, study: str = "name", seconds: float = 1.0) -> bytes:
    rows = [{"pair": pair, "choice": choice, "seconds": seconds} for pair, choice in enumerate(choices)]
    return json.dumps({"study": study, "answers": rows}).encode()


def test_sides_are_read_through_the_key() -> None:
    found = score(KEY, {"x": saved("left", "right", "tie", "left")})
    assert (found.wins, found.ties, found.people) == ((2, 1), 1, 1)
    assert found.share == pytest.approx(2 / 3)
    assert score(KEY, {"x": saved("left", "right", "left", "right")}).wins == (4, 0)
    assert score(KEY, {"x": saved("right", "left", "right", "left")}).wins == (0, 4)


def test_the_interval_is_wilson_s_and_the_test_is_exact() -> None:
    """By hand: 8 of 10, z = 1.959964."""
    key = Key("name", ("a", "b"), 0, tuple(range(10)), (True,) * 10)
    found = score(key, {"x": saved(*["left"] * 8, *["right"] * 2)})
    z, n, p = 1.959963985, 10, 0.8
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert (found.low, found.high) == (pytest.approx(middle - half, abs=1e-6), pytest.approx(middle + half, abs=1e-6))
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert "80.0 % of 10 decided pairs" in str(found)


def test_several_people_are_counted_together() -> None:
    found = score(KEY, {"x": saved("left"), "y": saved("right")})
    assert (found.wins, found.people) == ((1, 1), 2)
    alike = score(KEY, {"x": saved("left", seconds=1.0), "y": saved("left", seconds=2.0)})
    assert (sum(alike.wins), alike.people) == (2, 2), "two people may well choose alike"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"x": b"no json"}, "x: not the answers"),
        ({"x": b"[1]"}, "x: not the answers"),
        ({"x": b'{"study": "name", "answers": [{"pair": 0}]}'}, "x: not the answers"),
        ({"x": saved("left", study="other")}, "x: answers to study other"),
        ({"x": saved("up")}, "choice 'up'"),
        ({"x": saved("left" * 1000)}, "pair 0, choice 'left"),
        ({"x": saved(*["left"] * 5)}, "pair 4"),
        ({"x": saved("left").replace(b'"pair": 0', b'"pair": true')}, "pair True"),
        ({"x": saved("tie")}, "no pair was decided"),
        ({"x": saved("left"), "y": saved("left")}, "y: the same answers as x"),
        ({"x": b"[" * 100_000}, "x: not the answers"),
    ],
)
def test_what_is_no_answer_is_named(files: dict[str, bytes], says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as refused:
        score(KEY, files)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_shuffling_is_balanced_and_keyed() -> None:
    key = shuffle(("a", "b"), 101, seed=3, pictures=[b"x"])
    assert sorted(key.order) == list(range(101))
    assert list(key.order) != list(range(101))
    assert abs(2 * sum(key.first_is_left) - 101) == 1
    assert key == shuffle(("a", "b"), 101, seed=3, pictures=[b"x"])
    other = shuffle(("a", "b"), 101, seed=4, pictures=[b"x"])
    assert (other.study, other.order, other.first_is_left) != (key.study, key.order, key.first_is_left)
    assert shuffle(("a", "b"), 101, seed=3, pictures=[b"y"]).study != key.study, "other pictures are another study"


def test_a_key_comes_back_from_its_file() -> None:
    assert Key.from_json(KEY.to_json(), where="key.json") == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        KEY.to_json().replace('"seed": 0', '"seed": Infinity'),
        '{"study": "x", "models": ["a"], "seed": 0, "order": [], "first_is_left": []}',
    ],
)
def test_what_is_no_key_is_refused(text: Any) -> None:
    with pytest.raises(CheckpointError, match=r"key\.json: not the key of a study"):
        Key.from_json(text, where="key.json")
