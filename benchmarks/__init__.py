"""Benchmarks, each one command: `python -m benchmarks.NAME --json FILE`. What they share: a result, its goal, the table and the JSON."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
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


def median(measure: Callable[[], float], *, times: int) -> float:
    """The median of so many measurements, one after the other."""
    return statistics.median(measure() for _ in range(times))


def options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has; it may add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser


def publish(name: str, results: Sequence[Result], *, file: Path | None, **facts: Any) -> None:
    """Prints a table, and writes the JSON where a file is named: {benchmark, command, date, machine, facts, results}."""
    table = Table(title=name)
    for heading in ("", "value", "unit", "baseline", "ratio", "goal", "met"):
        table.add_column(heading, justify="left" if heading in ("", "unit") else "right")
    for result in results:
        met = "" if result.met is None else "yes" if result.met else "NO"
        numbers = [shown(number) for number in (result.value, result.baseline, result.ratio)]
        table.add_row(result.name, numbers[0], result.unit, numbers[1], numbers[2], result.goal or "", met)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for key, value in facts.items():
        print(f"{key}: {value}")
    if file is not None:
        page = {
            "benchmark": name,
            "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "machine": machine(),
            "facts": facts,
            "results": [asdict(result) for result in results],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(page, indent=2) + "\n", "utf-8")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpus": os.cpu_count(), "gpus": gpus, "python": platform.python_version(), "torch": torch.__version__}


def shown(number: float | None) -> str:
    """Three digits, or whole numbers where there are more before the point."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
