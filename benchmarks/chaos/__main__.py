"""See benchmarks/chaos/__init__.py."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks import Result, options, publish
from benchmarks import chaos as package
from benchmarks.chaos.disk import disk
from benchmarks.chaos.driver import driver
from benchmarks.chaos.hang import hang
from benchmarks.chaos.kills import kills
from benchmarks.chaos.link import link
from benchmarks.chaos.marathon import marathon
from benchmarks.chaos.node import node
from benchmarks.chaos.nonfinite import nonfinite
from benchmarks.chaos.rpc import rpc
from benchmarks.chaos.runs import Outcome, Stage
from benchmarks.chaos.store import store
from benchmarks.chaos.table import judged, table
from disback_ray import pictures

PARTS: Mapping[str, Callable[[Stage], Iterator[Outcome | Result | str]]] = {
    "kills": kills, "driver": driver, "node": node, "link": link, "rpc": rpc, "store": store, "disk": disk, "hang": hang,
    "nonfinite": nonfinite, "marathon": marathon,
}  # fmt: skip
SHORT = ("kills", "driver", "node", "hang")
PART_MINUTES = 20
"""So long a part may take, but for the two that are as long as they are asked to be."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options(package.__doc__ or "")
    parser.add_argument("--short", action="store_true", help=f"a little of {', '.join(SHORT)}, for CI")
    parser.add_argument("--only", type=_parts, metavar="PARTS", help=f"of {', '.join(PARTS)}; with commas between")
    parser.add_argument("--kills", type=int, help="of roles, in all (default 100; short: 3)")
    parser.add_argument("--steps", type=int, default=10_000, help="of the long run (default 10000)")
    parser.add_argument("--minutes", type=float, default=600, help="begin no further run with kills after so many")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    most = asked.kills if asked.kills is not None else 3 if asked.short else 100
    vars(pictures)["_png"] = lambda figure: b"\x89PNG"  # drawing them takes longer than all else
    outcomes, results, facts = list[Outcome](), list[Result](), list[str]()
    with folders() as folder:
        stage = Stage(folder, short=asked.short, seed=asked.seed, minutes=asked.minutes, kills=most, steps=asked.steps)
        for part in asked.only or (SHORT if asked.short else PARTS):
            for found in played(part, stage):
                if isinstance(found, Outcome):
                    outcomes.append(found)
                elif isinstance(found, Result):
                    results.append(found)
                else:
                    facts.append(found)
                print(found, file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 140).print(table(outcomes))
    rows = [*judged(outcomes), *results]
    publish("chaos", rows, file=asked.json, faults=[vars(outcome) for outcome in outcomes], long_run=facts or "none")
    return 1 if any(outcome.failures for outcome in outcomes) or any(row.met is False for row in rows) else 0


def _parts(text: str) -> list[str]:
    """Raises ValueError, which argparse makes an error of."""
    if unknown := set(text.split(",")) - set(PARTS):
        raise ValueError(unknown)
    return text.split(",")


def played(part: str, stage: Stage) -> Iterator[Outcome | Result | str]:
    """A part; whatever it raises is a failure of it, and the next one has its turn."""
    print(f"{part} …", file=sys.stderr, flush=True)
    if part not in ("kills", "marathon"):
        signal.alarm(60 * PART_MINUTES)
    try:
        yield from PARTS[part](stage)
    except Exception as error:
        yield Outcome(part, failures=[f"{part}: {type(error).__name__}: {str(error)[:500]}"])
    finally:
        signal.alarm(0)


@contextmanager
def folders() -> Iterator[Path]:
    """Where the runs lie, and where Ray does, by itself: what else runs on this machine is neither seen nor touched."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # or the first private cluster writes a token into the home folder
    os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 (a dozen processes a driver, unused)
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # as a role has it: a call that nobody waits for may fail
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")  # short: a socket's path has 107 letters at most
    signal.signal(signal.SIGALRM, _too_long)
    try:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    finally:
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"it took more than {PART_MINUTES} minutes")


if __name__ == "__main__":
    sys.exit(main())
