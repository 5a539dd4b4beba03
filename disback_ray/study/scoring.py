"""What people answered → how often the first model was preferred, with a confidence interval."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from disback_ray.errors import CheckpointError
from disback_ray.study.pairs import Key

CHOICES = ("left", "right", "tie")
CONFIDENCE = 0.95
MOST_BYTES = 10_000_000
"""An answer takes about 60 bytes."""


@dataclass(frozen=True)
class Preference:
    """wins: for the first and for the second model, ties beside them; low … high: Wilson's interval for the first one's share.

    p: of an exact two-sided sign test against one half; people: how many files of answers.
    """

    models: tuple[str, str]
    wins: tuple[int, int]
    ties: int
    people: int
    share: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        decided = sum(self.wins)
        return (
            f"{self.models[0]} is preferred to {self.models[1]} in {100 * self.share:.1f} % of {decided} decided pairs "
            f"({100 * CONFIDENCE:.0f} % interval {100 * self.low:.1f} … {100 * self.high:.1f} %, p = {self.p:.2g}); "
            f"{self.ties} without a difference; answers of {self.people}"
        )


def score(key: Key, files: Mapping[str, bytes]) -> Preference:
    """Counts all answers. The interval takes them as independent, which answers of one person are not quite.

    files: what the page saved, by name. Raises CheckpointError where one is no answers, another study's or given twice, or nothing is
    decided.
    """
    first = second = ties = 0
    seen: dict[str, str] = {}
    for name, data in files.items():
        answers = _read(name, data, key)
        text = json.dumps(sorted(answers.items()))  # with the seconds: two people may well choose alike
        if text in seen:
            raise CheckpointError(f"{name}: the same answers as {seen[text]}: give each file once")
        seen[text] = name
        for pair, (choice, _) in answers.items():
            ties += choice == "tie"
            first += choice == ("left" if key.first_is_left[pair] else "right")
            second += choice == ("right" if key.first_is_left[pair] else "left")
    if not first + second:
        raise CheckpointError("no pair was decided: there is no preference to tell")
    test = binomtest(first, first + second)
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return Preference(
        key.models, (first, second), ties, len(files), first / (first + second), interval.low, interval.high, test.pvalue
    )


def _read(name: str, data: bytes, key: Key) -> dict[int, tuple[str, float]]:
    """pair → choice, and the seconds that it took. Raises CheckpointError where the file is no answers to this study."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"{len(data)} bytes")
        found = json.loads(data)
        study, rows = str(found["study"]), [(row["pair"], row["choice"], float(row["seconds"])) for row in found["answers"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{name}: not the answers that a study's page saves ({type(error).__name__}: {error})") from None
    if study != key.study:
        raise CheckpointError(f"{name}: answers to study {study[:16]}, and this one is {key.study}")
    answers: dict[int, tuple[str, float]] = {}
    for pair, choice, seconds in rows:
        if type(pair) is int and pair in answers:
            raise CheckpointError(f"{name}: two answers to pair {pair}")
        if type(pair) is not int or not 0 <= pair < len(key.order) or choice not in CHOICES:
            raise CheckpointError(
                f"{name}: pair {pair!r:.40}, choice {choice!r:.40}: not an answer to one of {len(key.order)} pairs"
            )
        answers[pair] = choice, seconds
    return answers
