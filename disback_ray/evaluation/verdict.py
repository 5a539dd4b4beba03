"""Whether a run converged, in plain words, by rules that are stated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from disback_ray.evaluation.alarms import FEWER, MAIN, TWICE, WORDS, Alarm, Look, collapse, column, from_start, gaps, lag

FEWEST = 3
STILL = 0.10  # of a figure from the third last look to the last
NEAR = 0.5


def verdict(
    looks: Sequence[Look],
    figures: Mapping[str, Any],
    raised: Sequence[Alarm],
    *,
    real_spread: float | None = None,
    lower_bound: float | None = None,
    lost: int = 0,
) -> str:
    """One line. looks: the rows of backtracking that were measured, oldest first; figures: of the summary; raised: its alarms.

    lost: steps whose rows, and looks with them, are gone with the file that had them.

    Collapsed or diverged: the alarm's rule still holds at the end, that is, the figure has not come back. Else by the main distance
    (without one, the score difference): still improving, where the last look is over 10 % better than the third last; settled,
    where the last three are within 10 %; unsettled otherwise. It moved, where it is under half of what it was at the start. The 10 %
    are of the figure, or of what real data is from real data where that is more: so much is chance. An end that is worse than the start
    by more than that, a fake score that lags, or did, and samples that hardly differ, however they came to that, are said behind it.
    """
    name = next((name for name in MAIN if column(looks, name)), None)
    values = column(looks, name) if name else gaps(looks)
    what = WORDS[name] if name else "score difference"
    chance = STILL * (_value(figures, "real_halves", name) or 0.0)
    start = _value(figures, "untrained", name) if name else None
    worse = _worse(what, values, start, chance)
    if len(values) < FEWEST and lost:
        return f"Too few looks at the generator are left to tell: {len(values)}; the rows of {lost:,} steps are lost.{worse}"
    if len(values) < FEWEST:
        return f"Too few looks at the generator to tell: {len(values)}, and {FEWEST} are needed; lower evaluation.every.{worse}"
    begun = from_start(looks, figures.get("untrained"))
    behind = _lagging(begun, raised, lower_bound)
    if ended := _unrecovered(begun, column(begun, name) if name else values, raised, real_spread):
        return f"{ended}{worse}{behind}"
    state = _state(what, values, values[0] if start is None else start, chance, worse=bool(worse))
    return f"{state}{_compared(figures, name)}.{worse}{_narrow(looks, real_spread)}{behind}"


def _state(what: str, values: Sequence[float], start: float, chance: float, *, worse: bool) -> str:
    """What the last looks did. chance: so far a figure moves by itself."""
    recent = values[-FEWEST:]
    low, high, last = min(recent), max(recent), recent[-1]
    slack = max(STILL * last, chance, 1e-12)
    if last < min((1 - STILL) * recent[0], recent[0] - slack):
        fell = f"the {what} fell from {recent[0]:.3g} to {last:.3g} in three looks"
        return f"Coming back when it stopped: {fell}" if worse else f"Still improving when it stopped: {fell}; train longer"
    if high - low <= slack:
        came = f", from {start:.3g}" if last < NEAR * start else f", hardly better than at the start, {start:.3g}"
        return f"Settled: the {what} stays at {last:.3g}{'' if worse else came}"
    return f"Unsettled: the {what} moved between {low:.3g} and {high:.3g} over the last three looks"


def _worse(what: str, values: Sequence[float], start: float | None, chance: float) -> str:
    """A sentence where the run ends further away than it began. start: before training; where that isn't known, the first look counts."""
    if not values:
        return ""
    began, first, last = "at the start" if start is not None else "at the first look", start, values[-1]
    first = values[0] if first is None else first
    if last <= first + max(STILL * first, STILL * last, chance):
        return ""
    times = (
        f", {last / first:.3g} times the {first:.3g} {began}" if first > 0 and math.isfinite(last) else f", {first:.3g} {began}"
    )
    return f" It ends worse than it began: the {what} is {last:.3g}{times}."


def _unrecovered(
    looks: Sequence[Look], values: Sequence[float], raised: Sequence[Alarm], real_spread: float | None
) -> str | None:
    kinds = {alarm.kind: alarm for alarm in raised}
    if "divergence" in kinds and not values[-1] <= TWICE * min(values):
        return f"Diverged: {kinds['divergence'].text.partition(': ')[2]} (from step {kinds['divergence'].step:,} on)."
    if "collapse" in kinds and (text := collapse(looks, real_spread=real_spread)) is not None:
        return f"Collapsed: {text.partition(': ')[2]} (alarm at step {kinds['collapse'].step:,})."
    return None


def _narrow(looks: Sequence[Look], real_spread: float | None) -> str:
    """A sentence where the spread of the last looks is under half of real data's: a run may have lost it before its first look.

    No alarm: every generator begins so.
    """
    last = column(looks, "spread")[-FEWEST:]
    if real_spread is None or len(last) < FEWEST or max(last) >= FEWER * real_spread:
        return ""
    return f" The samples' spread is {last[-1]:.3g}, under half of the {real_spread:.3g} that they are to have: they are too much alike."


def _lagging(looks: Sequence[Look], raised: Sequence[Alarm], lower_bound: float | None) -> str:
    """A sentence where the alarm of that kind was raised."""
    step = next((alarm.step for alarm in raised if alarm.kind == "lag"), None)
    if step is None:
        return ""
    if lag(looks, lower_bound=lower_bound) is None:
        return f" The fake score lagged (from step {step:,} on), but not any more in all of the last three looks."
    return (
        f" The fake score lags (from step {step:,} on): what the generator follows points wrong; "
        "raise backtracking.fake_updates or its rate, or lower the generator's."
    )


def _compared(figures: Mapping[str, Any], name: str | None) -> str:
    parts = []
    if name is not None:
        for part, words in (("teacher", "the teacher's is"), ("real_halves", "real data against real data is at")):
            if (value := _value(figures, part, name)) is not None:
                parts.append(f"{words} {value:.3g}")
    modes, most = _value(figures, "generator", "modes"), _value(figures, "real_halves", "modes")
    if modes is not None and most is not None:
        parts.append(f"{modes:.0f} of {most:.0f} modes are covered")
    inside, real = (_value(figures, part, "in_modes") for part in ("generator", "real_halves"))
    if inside is not None and real is not None:
        parts.append(f"{inside:.0%} of its points lie in a mode, {real:.0%} of the data's do")
    return f" ({'; '.join(parts)})" if parts else ""


def _value(figures: Mapping[str, Any], part: str, name: str | None) -> float | None:
    found = (figures.get(part) or {}).get(name)
    return None if found is None else float(found)
