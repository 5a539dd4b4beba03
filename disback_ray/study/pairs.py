"""The pairs that people are shown: which model is on which side, and in which order. The page doesn't know; the key does."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from disback_ray.algorithms.noise import Batch
from disback_ray.errors import CheckpointError

TAG = "study"


@dataclass(frozen=True)
class Key:
    """What the page must not tell. models: their names, the first and the second; first_is_left: for each pair, in the order shown.

    order: which sample each shown pair is of; study: names the study, so that answers to another one are refused.
    """

    study: str
    models: tuple[str, str]
    seed: int
    order: tuple[int, ...]
    first_is_left: tuple[bool, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str, *, where: str) -> "Key":
        """Raises CheckpointError where it is no study's key."""
        try:
            found = json.loads(text)
            key = Key(
                str(found["study"]), (str(found["models"][0]), str(found["models"][1])), int(found["seed"]),
                tuple(map(int, found["order"])), tuple(map(bool, found["first_is_left"])),
            )  # fmt: skip
            if len(key.order) != len(key.first_is_left) or not key.order:
                raise ValueError("its pairs don't match")
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{where}: not the key of a study: {error}") from None
        return key


def shuffle(models: tuple[str, str], pairs: int, *, seed: int, pictures: Sequence[bytes]) -> Key:
    """Shuffles the pairs and the sides, each model being on the left as often as the other (± 1), by the seed.

    pictures: all of them; with the models they decide the study's name.
    """
    numbers = Batch(seed, TAG, 0, 0, 2 * pairs).uniform(TAG).numpy()
    order = np.argsort(numbers[:pairs], kind="stable")
    sides = np.argsort(np.argsort(numbers[pairs:], kind="stable"), kind="stable") % 2 == 0
    name = hashlib.sha256(repr((models, pairs, seed)).encode() + b"".join(pictures)).hexdigest()[:16]
    return Key(name, models, seed, tuple(map(int, order)), tuple(map(bool, sides)))
