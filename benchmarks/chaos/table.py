"""What became of it, as the docs show it and as other benchmarks write it."""

import statistics
from collections.abc import Sequence

from rich.table import Table

from benchmarks import Result, measured
from benchmarks.chaos.runs import Outcome


def table(outcomes: Sequence[Outcome]) -> Table:
    """For the docs: a row for each kind of fault."""
    made = Table(title="faults")
    for heading in ("", "injected", "same weights", "steps lost", "made again", "median recovery", "slowest"):
        made.add_column(heading)
    for each in outcomes:
        numbers = [each.injected, f"{each.survived} of {each.runs}", each.lost_steps, each.again or ""]
        times = [f"{value:.1f} s" for value in (statistics.median(each.seconds), max(each.seconds))] if each.seconds else ["", ""]
        shown = ["", f"skipped: {each.skipped}", "", "", "", ""] if each.skipped else [*map(str, numbers), *times]
        made.add_row(each.fault, *shown)
    return made


def judged(outcomes: Sequence[Outcome]) -> list[Result]:
    """Rows for each kind of fault that could be tried, and for all of them."""
    tried = [outcome for outcome in outcomes if not outcome.skipped]
    rows = [row for outcome in tried for row in _rows(outcome)]
    if not tried:
        return rows
    seconds = [each for outcome in tried for each in outcome.seconds]
    runs = sum(outcome.runs for outcome in tried)
    return [
        *rows,
        measured("faults injected", sum(outcome.injected for outcome in tried), ""),
        measured("runs that ended with the same weights", sum(o.survived for o in tried), "runs", baseline=runs, at_least=1.0),
        measured("steps lost", sum(outcome.lost_steps for outcome in tried), "steps", at_most=0),
        measured("median recovery", statistics.median(seconds or [0.0]), "s"),
        measured("slowest recovery", max(seconds, default=0.0), "s"),
        measured("what went wrong", sum(len(outcome.failures) for outcome in tried), "", at_most=0),
    ]


def _rows(outcome: Outcome) -> list[Result]:
    name = outcome.fault
    found = [
        measured(f"{name}: injected", outcome.injected, "", at_least=1),
        measured(f"{name}: same weights", outcome.survived, "runs", baseline=outcome.runs, at_least=1.0),
        measured(f"{name}: steps lost", outcome.lost_steps, "steps", at_most=0),
    ]
    found += [measured(f"{name}: steps made again", outcome.again, "steps")] if outcome.again else []
    return found + ([measured(f"{name}: median recovery", statistics.median(outcome.seconds), "s")] if outcome.seconds else [])
