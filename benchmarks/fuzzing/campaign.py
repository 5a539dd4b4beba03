"""One reader, so many cases: each is read, or refused in one line; nothing is executed, nothing written, and memory is bounded."""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.guard import guarded
from benchmarks.fuzzing.mutator import mutate
from benchmarks.peak import peak_mib
from disback_ray.errors import DisbackError

SECONDS = 60
"""Reading one case may take so long, whatever else the machine does; how long it computes is measured."""
LONGEST_LINE = 1000


@dataclass(frozen=True)
class Reader:
    """seeds: honest files. read: what is done with one, given the file's path; places: the file's name in a folder of its own.

    beside: other files of that folder. make: damages a seed in another way than byte by byte.
    """

    name: str
    file: str
    seeds: Sequence[bytes]
    read: Callable[[Path], Any]
    beside: dict[str, bytes] = field(default_factory=dict)
    make: Callable[[random.Random, Sequence[bytes]], bytes] = mutate


@dataclass
class Outcome:
    """refused: in one line; read: all the same. faults: what should not have been, the first of each kind.

    slowest: seconds of a processor; which: the case that took them.
    """

    cases: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    which: int = 0
    seconds: float = 0.0
    grown_mb: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)


def fuzz(reader: Reader, folder: Path, *, cases: int, seed: int = 0, seconds: float = float("inf")) -> Outcome:
    """At most so many cases, and no more once the time is over. folder: an empty one, in memory at best."""
    for name, content in reader.beside.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    file = folder / reader.file
    file.parent.mkdir(parents=True, exist_ok=True)
    for honest in reader.seeds:  # also imports whatever it takes
        file.write_bytes(honest)
        reader.read(file)
    there = _listed(folder)
    found, start, before = Outcome(), time.monotonic(), peak_mib()
    for case in range(cases):
        if time.monotonic() - start > seconds:
            break
        data = reader.make(random.Random(f"{seed}/{reader.name}/{case}"), reader.seeds)
        file.write_bytes(data)
        _one(reader, file, case, found)
        if (case % 500 == 0 or case + 1 == cases) and (left := _listed(folder) - there):
            found.faults["written"] = f"case {case} or before: {sorted(left)[:3]}"
            break
    found.seconds, found.grown_mb = time.monotonic() - start, peak_mib() - before
    return found


def _one(reader: Reader, file: Path, case: int, found: Outcome) -> None:
    began = time.process_time()
    found.cases += 1
    with warnings.catch_warnings(), guarded() as seen:
        warnings.simplefilter("ignore")  # libraries tell of damage in their own way
        try:
            with _alarm():
                reader.read(file)
            found.read += 1
        except DisbackError as error:
            found.refused += 1
            if "\n" in str(error) or len(str(error)) > LONGEST_LINE or not str(error):
                found.faults.setdefault("not one line", f"case {case}: {str(error)!r:.300}")
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
            found.faults.setdefault(f"{type(error).__name__} at {line}", f"case {case}: {str(error)!r:.300}")
    if seen:
        found.faults.setdefault(f"executed {seen[0].partition('(')[0]}", f"case {case}: {seen[:3]}")
    if (took := time.process_time() - began) > found.slowest:
        found.slowest, found.which = took, case


@contextmanager
def _alarm() -> Iterator[None]:
    """Raises TimeoutError in a case that takes too long."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _listed(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, folders, files in os.walk(folder) for name in (*folders, *files)}
