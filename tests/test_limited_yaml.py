"""Files of settings are small and shallow; what is neither is refused before it is built."""

import itertools

import pytest

from disback_ray.errors import ConfigError
from disback_ray.limited_yaml import MOST_BYTES, NotYaml, load

LETTERS = "abcdefghi"
BOMBS = {
    "a billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(LETTERS)),
    "merged keys": "a: &a {x: 1, y: 2}\n"
    + "".join(f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 9)}]}}\n" for old, new in itertools.pairwise(LETTERS)),
    "itself": "&a [*a]",
    "itself as a key": "&a {*a : 1}",
    "deep lists": "[" * 50_000,
    "deep keys": "{a: " * 50_000,
    "deep blocks": "- " * 50_000,
    "too long": "a: " + "x" * MOST_BYTES,
    "too many keys": "\n".join(f"k{index}: 1" for index in range(20_001)),
    "a huge number": "a: " + "9" * 10_000,
    "a huge number of base 16": "a: 0x" + "f" * 5_000,
    "a huge number of base 2": "a: 0b" + "1" * 15_000,
    "a huge number of base 60": "a: 1" + ":1" * 200_000,
    "a huge fraction of base 60": "a: 1" + ":1" * 200_000 + ".5",
    "a call": "!!python/object/apply:os.system [touch executed]",
    "a class": "!!python/name:os.system",
    "an empty number": "!!int ''",
    "no time": "!!timestamp x",
    "no truth": "!!bool x",
    "no day": "2001-99-99",
    "a key that is there twice": "a: {b: 1, c: 2, b: 1}",
    "a list as a key": "{[1]: 2}",
    "a zero": "a: \0",
    "two documents": "a: 1\n---\nb: 2",
    "no text": b"\xff\xfe\xff",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_is_no_file_of_settings_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(NotYaml) as refused:
        load(BOMBS[kind])
    assert 0 < len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["!!int ''", "!!timestamp x", "2001-99-99", "1" + ":1" * 190 + ".5", "!!float x"])
def test_a_value_that_is_not_of_its_tag_is_told_by_its_line(value: str) -> None:
    with pytest.raises(NotYaml, match=r"^line 3: a value that doesn't fit its tag") as refused:
        load(f"a: 1\nb:\n  - {value}")
    assert len(str(refused.value)) < 100


def test_all_else_is_what_pyyaml_makes_of_it() -> None:
    text = "a: &a {x: 1, y: [1, 2.5, null, true]}\nb: *a\nc: {<<: *a, x: 3}\n"
    inner = {"x": 1, "y": [1, 2.5, None, True]}
    assert load(text) == load(text.encode()) == {"a": inner, "b": inner, "c": inner | {"x": 3}}
    assert load("") is None
    assert load("a: {b: 1}\nc: {b: 1, '1': 2, 1: 3}") == {"a": {"b": 1}, "c": {"b": 1, "1": 2, 1: 3}}, "a key of two places"


def test_a_number_may_be_long_and_a_text_longer() -> None:
    assert load("a: " + "9" * 400) == {"a": 10**400 - 1}
    assert load("a: x" + "9" * 5000) == {"a": "x" + "9" * 5000}


def test_a_bomb_is_refused_wherever_yaml_comes_from() -> None:
    from disback_ray.config import load_recipe

    with pytest.raises(ConfigError, match=r"--set batch=\[\[.*the value is not YAML"):
        load_recipe("ring8", overrides=["batch=" + "[" * 1000])
