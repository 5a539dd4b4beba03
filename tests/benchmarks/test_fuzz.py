"""Every reader of what others made, with a few damaged files each; `python -m benchmarks.fuzz` has 100,000."""

import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import one
from benchmarks.fuzzing.campaign import Reader, fuzz
from benchmarks.fuzzing.mutator import mutate
from benchmarks.fuzzing.readers import readers
from disback_ray.errors import CheckpointError

SLOW = {
    "edm": 8,
    "consistency": 8,
    "ddpm": 4,
    "pipeline": 10,
    "lora": 2,
    "recipe": 25,
    "cluster": 25,
    "config.yaml": 15,
    "summary": 10,
}


OF_DIFFUSERS = {"ddpm", "pipeline", "lora"}
"""In tests/teachers/test_ddpm_folder.py, where diffusers, which takes seconds to import, is there anyway."""


@pytest.mark.parametrize("name", sorted(readers().keys() - OF_DIFFUSERS))
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str) -> None:
    found = one(name, cases=SLOW.get(name, 40), seed=1)
    assert not found.faults
    assert found.cases == found.refused + found.read


class Call:
    def __reduce__(self) -> Any:
        return open, ("/dev/null", "w")


def strict(file: Path) -> None:
    if file.read_bytes() != b"honest":
        raise CheckpointError("two\nlines")


def writes(file: Path) -> None:
    if file.read_bytes() != b"honest":
        file.with_name("left behind").touch()


def test_whatever_else_happens_is_found(tmp_path: Path) -> None:
    """Otherwise nothing above would mean anything."""
    made = pickle.dumps([1, 2])
    bad = pickle.dumps(Call())
    faults = {
        "executed open": Reader("a", "x", [made], lambda file: pickle.loads(file.read_bytes()), make=lambda rng, seeds: bad),
        "not one line": Reader("b", "x", [b"honest"], strict),
        "ZeroDivisionError": Reader("c", "x", [b"honest"], lambda file: 1 // (file.read_bytes() == b"honest")),
        "executed": Reader("d", "x", [b"honest"], writes),
    }
    for index, (fault, reader) in enumerate(faults.items()):
        (tmp_path / str(index)).mkdir()
        found = fuzz(reader, tmp_path / str(index), cases=5)
        assert any(name.startswith(fault) for name in found.faults), (fault, found.faults)


def test_the_same_numbers_damage_alike() -> None:
    seeds = [bytes(range(200)) * 5, b"{}"]
    made = [mutate(random.Random(n), seeds) for n in range(200)]
    assert made == [mutate(random.Random(n), seeds) for n in range(200)]
    assert len(set(made)) > 150
