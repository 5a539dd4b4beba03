"""Recipes and cluster files as nobody would write them: values, keys and structure changed at random, and bytes now and then."""

import copy
import json
import math
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml

from benchmarks.fuzzing.mutator import mutate
from disback_ray import limited_yaml
from disback_ray.config import ClusterConfig, Recipe, check_agreement, load_cluster, load_recipe

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 1 << 31, 1 << 63, 1 << 200, 0.0, -0.5, 1e-30, 1e30, math.inf, -math.inf, math.nan, "", "x",
    "teacher",
    "../../etc/passwd", "~nobody/x", "\0", "a" * 5000, "1", "1e3", "s3://x/y", "hdfs://", "file:///x", "module:f", "${x}", 
    "{{ 1 }}", "😀", [], {},
    [[]], [None], [1, 2, 3], [3, 2, 1], [-1], ["a"], {"a": 1}, {"kind": "adam"}, {"kind": "none"}, {1: 2}, {"": ""},
)  # fmt: skip
KEYS = ("kind", "lr", "steps", "stepz", "", "with", "__class__", "ranks", "name", "1", "teacher", "checkpoint")


def damaged(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the files with one to five changes of what it says, or with changed bytes."""
    if rng.random() < 0.2:
        return mutate(rng, seeds)
    content, other = copy.deepcopy(_content(rng.choice(seeds))), _content(rng.choice(seeds))
    for _ in range(rng.randint(1, 5)):
        _change(rng, content, other)
    try:
        return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode()  # which is YAML, and written a hundred times as fast
    except (TypeError, ValueError):
        return yaml.safe_dump(content).encode()


@cache
def _content(seed: bytes) -> Any:
    """What an honest file says. Not to be changed."""
    return limited_yaml.load(seed)


def _change(rng: random.Random, content: Any, other: Any) -> None:
    holder, key = rng.choice(_places(content))
    match rng.randrange(5):
        case 0 | 1:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        case 2:
            del holder[key]
        case 3 if isinstance(holder, dict):
            holder[rng.choice(KEYS)] = holder.pop(key)
        case _:
            source, name = rng.choice(_places(other))
            holder[key] = copy.deepcopy(source[name])


def _places(content: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of each value within."""
    found: list[tuple[Any, Any]] = []
    pending = [content]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
    return found or [({"x": None}, "x")]


def read_recipe(name: str) -> None:
    """All that is said of a recipe before anything runs."""
    check_agreement(load_recipe(name), _usual()[1])


def read_cluster(name: str) -> None:
    """The same of a cluster file."""
    check_agreement(_usual()[0], load_cluster(name))


@cache
def _usual() -> tuple[Recipe, ClusterConfig]:
    return load_recipe("ring8"), load_cluster(None)
