"""Fuzzing: each reader of files that others made, fed with damaged ones; does anything happen but a refusal in one line?

`python -m benchmarks.fuzz --cases 100000 --json FILE`; `--only NAME` for one reader. See docs/security.md.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import Result, measured, options, publish
from benchmarks.fuzzing.campaign import Outcome, fuzz
from benchmarks.fuzzing.readers import readers

MOST_MB = 1024
"""So much more memory than for honest files a reader may come to take, over all cases."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--cases", type=int, default=2000, help="for each reader (default 2000)")
    parser.add_argument("--only", action="append", choices=sorted(readers()), help="one reader; repeatable")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results, faults = list[Result](), dict[str, dict[str, str]]()
    for name in asked.only or readers():
        found = one(name, cases=asked.cases, seed=asked.seed, seconds=asked.seconds)
        results.append(
            measured(f"{name}: cases", found.cases, "", at_least=None if asked.seconds < float("inf") else asked.cases)
        )
        results.append(measured(f"{name}: refused in one line", found.refused, ""))
        results.append(measured(f"{name}: slowest", found.slowest, "s", at_most=10))
        results.append(measured(f"{name}: more memory", found.grown_mb, "MB", at_most=MOST_MB))
        results.append(measured(f"{name}: anything else", len(found.faults), "", at_most=0))
        if found.faults:
            faults[name] = found.faults
        print(
            f"{name}: {found.cases} cases in {found.seconds:.0f} s, {found.refused} refused, slowest: case {found.which} {found.faults}",
            file=sys.stderr,
            flush=True,
        )
    publish("fuzz", results, file=asked.json, faults=faults or "none")
    return 0 if all(result.met is not False for result in results) else 1


def one(name: str, *, cases: int, seed: int = 0, seconds: float = float("inf")) -> Outcome:
    """One reader's cases, in a folder of its own, in memory where there is such a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        return fuzz(readers()[name](), Path(folder), cases=cases, seed=seed, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
