"""Benchmarks, each one command: `python -m benchmarks.NAME --json FILE`. What they share beside disback_ray/measurement.py."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from disback_ray.errors import DisbackError
from disback_ray.measurement import Result, as_table, document, measured, shown

__all__ = ["Result", "command", "measured", "median", "options", "publish", "shown"]


def median(measure: Callable[[], float], *, times: int) -> float:
    """The median of so many measurements, one after the other."""
    return statistics.median(measure() for _ in range(times))


def options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has; it may add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser


def command(main: Callable[[], None]) -> None:
    """Runs a benchmark that plays runs: what is wrong with its settings is one line, as disback-ray's own commands have it."""
    try:
        main()
    except DisbackError as error:
        sys.exit(f"{sys.argv[0].rpartition('/')[2]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def publish(name: str, results: Sequence[Result], *, file: Path | None, **facts: Any) -> None:
    """Prints a table, and writes the JSON where a file is named."""
    Console(width=None if sys.stdout.isatty() else 120).print(as_table(name, results))
    for key, value in facts.items():
        print(f"{key}: {value}")
    if file is not None:
        page = document(name, " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]), results, **facts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(page, indent=2) + "\n", "utf-8")
