"""What may go wrong while a run trains, each by a rule that is stated: on the looks so far, oldest first.

A look is the row of metrics.parquet of a step after which the generator was measured; what was not measured is None or absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Look = Mapping[str, object]

MAIN = ("frechet", "sliced_wasserstein")
WORDS = {"frechet": "Fréchet distance", "sliced_wasserstein": "sliced Wasserstein distance"}
FEWER, TWICE, FAR = 0.5, 2.0, 4.0
COLLAPSED_LOOKS, DIVERGED_LOOKS, LAGGING_LOOKS = 2, 3, 3
FEWEST_MODES = 4


@dataclass(frozen=True)
class Alarm:
    """kind: collapse, divergence or lag. step: the look at which the rule first held; text: what it saw, in a sentence."""

    kind: str
    step: int
    text: str


def alarms(
    looks: Sequence[Look], *, start: Look | None = None, lower_bound: float | None = None, real_spread: float | None = None
) -> list[Alarm]:
    """The first alarm of each kind. start: the untrained generator's figures, which may be the best that a run had.

    lower_bound, real_spread: the teacher's mismatch on real data, and their spread, where known.
    """
    looks = from_start(looks, start)
    return [
        *_first(looks, lambda until: collapse(until, real_spread=real_spread)),
        *_first(looks, divergence),
        *_first(looks, lambda until: lag(until, lower_bound=lower_bound)),
    ]


def collapse(looks: Sequence[Look], *, real_spread: float | None = None) -> str | None:
    """Coverage or diversity falls: for 2 looks in a row, under half of the most that the run had.

    Modes: of at least 4. Spread: beyond that of real data it is no merit.
    """
    for name, what, least in (("modes", "modes covered", FEWEST_MODES), ("spread", "the samples' spread", 0.0)):
        values = column(looks, name)
        last = values[-COLLAPSED_LOOKS:]
        best = max(values[:-COLLAPSED_LOOKS], default=0.0)
        if name == "spread" and real_spread is not None:
            best = min(best, real_spread)
        if len(last) == COLLAPSED_LOOKS and best > least and max(last) < FEWER * best:
            return f"collapse: {what} fell from {best:.3g} to {last[-1]:.3g}; the generator makes less of what there is"
    return None


def divergence(looks: Sequence[Look]) -> str | None:
    """The distance grows: for 3 looks in a row over twice its best, and the last of them is not the least of them.

    Or it leapt: for 3 looks in a row over 4 times its best, even if it falls again. Of a run without a distance, the score difference
    over all bands counts, by the first rule alone: what it was before training isn't known, and it begins low where s_φ is the teacher.
    """
    name = next((name for name in MAIN if column(looks, name)), None)
    values = column(looks, name) if name else gaps(looks)
    last = values[-DIVERGED_LOOKS:]
    best = min((v for v in values[:-DIVERGED_LOOKS] if math.isfinite(v)), default=math.inf)
    if len(last) < DIVERGED_LOOKS or not 0 < best < math.inf or any(v <= TWICE * best for v in last):  # NaN is far, too
        return None
    if not last[-1] <= min(last[:-1]):
        ending = "does not come back"
    elif name and not any(v <= FAR * best for v in last):
        ending = f"stays over {FAR:g} times that"
    else:
        return None
    what = WORDS[name] if name else "score difference"
    return f"divergence: the {what} is at {last[-1]:.3g}, {last[-1] / best:.3g} times its best, and {ending}: lower the rates"


def lag(looks: Sequence[Look], *, lower_bound: float | None = None) -> str | None:
    """s_φ lags: for 3 looks in a row it is further from the samples' own score than the teacher is, so Eq. (8) points wrong.

    Near convergence the two are equally far, at the teacher's own floor: only a mismatch over twice that bound counts, and without a
    known bound over twice the least of the run.
    """
    pairs = [
        (a, b)
        for a, b in ((_number(k, "fake_mismatch"), _number(k, "mismatch")) for k in looks)
        if a is not None and b is not None
    ]
    last = pairs[-LAGGING_LOOKS:]
    floor = lower_bound if lower_bound is not None else min((b for _, b in pairs[:-LAGGING_LOOKS]), default=math.inf)
    if len(last) == LAGGING_LOOKS and all(fake > teacher > TWICE * floor for fake, teacher in last):
        fake, teacher = last[-1]
        return (
            f"the fake score lags: its mismatch on the generator's samples is {fake:.3g}, the teacher's {teacher:.3g}: "
            "raise backtracking.fake_updates or its rate, or lower the generator's"
        )
    return None


def from_start(looks: Sequence[Look], start: Look | None) -> list[Look]:
    """With the untrained generator's figures as the first look, where there are any."""
    return [*([{**start, "step": 0}] if start else []), *looks]


def column(looks: Sequence[Look], name: str) -> list[float]:
    """The values of one figure where it was measured."""
    return [value for look in looks if (value := _number(look, name)) is not None]


def gaps(looks: Sequence[Look]) -> list[float]:
    """The score difference over all bands, at each look that has one: root mean square."""
    found = []
    for look in looks:
        parts = [value for name in look if name.startswith("gap_") and (value := _number(look, name)) is not None]
        if parts:
            found.append(math.sqrt(sum(value**2 for value in parts) / len(parts)))
    return found


def _number(look: Look, name: str) -> float | None:
    value = look.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _first(looks: Sequence[Look], rule: Callable[[Sequence[Look]], str | None]) -> list[Alarm]:
    for end in range(1, len(looks) + 1):
        if (text := rule(looks[:end])) is not None:
            return [Alarm(text.partition(":")[0].replace("the fake score lags", "lag"), int(str(looks[end - 1]["step"])), text)]
    return []
