"""A figure with its baseline and its goal, and the JSON and the table that benchmarks and comparisons write."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import torch
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One figure. ratio: value / baseline, both measured in this run; goal: of the ratio, or of the value where there is no baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


def measured(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Result:
    """A figure beside its baseline and its goal; one of at_least and at_most, or neither where there is no goal."""
    assert at_least is None or at_most is None, name
    ratio = None if baseline is None else value / baseline
    judged = value if ratio is None else ratio
    if at_least is not None:
        return Result(name, value, unit, baseline, ratio, f">= {at_least:g}", judged >= at_least)
    if at_most is not None:
        return Result(name, value, unit, baseline, ratio, f"<= {at_most:g}", judged <= at_most)
    return Result(name, value, unit, baseline, ratio)


def document(name: str, command: str, results: Sequence[Result], **facts: Any) -> dict[str, Any]:
    """What a measurement leaves as JSON: {benchmark, command, date, machine, facts, results}."""
    return {
        "benchmark": name,
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine(),
        "facts": facts,
        "results": [asdict(result) for result in results],
    }


def as_table(title: str, results: Sequence[Result]) -> Table:
    """The results for a terminal."""
    table = Table(title=title)
    for heading in ("", "value", "unit", "baseline", "ratio", "goal", "met"):
        table.add_column(heading, justify="left" if heading in ("", "unit") else "right")
    for result in results:
        met = "" if result.met is None else "yes" if result.met else "NO"
        numbers = [shown(number) for number in (result.value, result.baseline, result.ratio)]
        table.add_row(result.name, numbers[0], result.unit, numbers[1], numbers[2], result.goal or "", met)
    return table


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpus": os.cpu_count(), "gpus": gpus, "python": platform.python_version(), "torch": torch.__version__}


def shown(number: float | None) -> str:
    """Three digits, or whole numbers where there are more before the point."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
