"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import os
import threading
import time
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from disback_ray.pace import Pace, clock

LINE_SECONDS = 15.0
HOLD_SECONDS = 12.0
"""Without a terminal, a stage that can't be counted is said once it has lasted so long. A silent address, and what can't be placed on
a private Ray, are given up in 10 s: then the error is the one line."""
SHOWN = ("fake_loss", "field_norm", "loss", "frechet", "sliced_wasserstein")
NARROW, WIDE = 8, 24
WIDE_FROM = 120
"""Of a terminal, in letters: below that the bar leaves its room to what is said beside it."""


class Watcher(Protocol):
    """What a run tells those who watch it."""

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None: ...

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None: ...

    def say(self, text: str) -> None: ...

    def interject(self, text: str) -> None: ...


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        pass

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def interject(self, text: str) -> None:
        pass


class OneLine(ProgressColumn):
    """Stage and node, bar, time left, rate, count, measures: as many of them, in this order of importance, as the line holds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def render(self, task: Task) -> Table:
        pace: Pace = task.fields["pace"]
        room = self.console.width
        bar = ProgressBar(task.total, task.completed, width=WIDE if room >= WIDE_FROM else NARROW, pulse=pace.steps is None)
        line = Table.grid(padding=(0, 1))
        for _ in range(3):
            line.add_column(no_wrap=True, overflow="ellipsis")
        assert bar.width is not None
        beside = what_fits(pace, task.fields["numbers"], room - len(task.description) - bar.width - 2)
        line.add_row(Text(task.description, style="bold"), bar, Text("  ".join(beside)))
        return line


def what_fits(pace: Pace, numbers: dict[str, float], room: int) -> list[str]:
    """The parts of a stage's line beside its bar, the least important left out first until they fit into so many letters."""
    if pace.steps is None:
        parts, importance = [clock(pace.passed)], [0]
    else:
        rate = f"{pace.rate:.1f}/s" if pace.rate else ""
        left = f"{clock(pace.left)} left" if pace.left is not None else ""
        parts = [f"{pace.done}/{pace.steps}", rate, left]
        importance = [2, 1, 0]
    parts += measures(numbers)
    importance += range(3, 3 + len(numbers))
    kept = sorted(range(len(parts)), key=lambda index: importance[index])
    while kept and len("  ".join(parts[index] for index in kept if parts[index])) > room:
        kept.pop()
    return [parts[index] for index in sorted(kept) if parts[index]]


def measures(numbers: dict[str, float]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items()]


class OnConsole:
    """A progress bar with stage, node, step rate, losses and time left; without a terminal, the same as lines."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(OneLine(self.console), console=self.console, transient=True)
        self.task: Any = None
        self.name = ""
        self.latest: dict[str, float] = {}
        self.held = threading.Timer(0, lambda: None)

    def __enter__(self) -> "OnConsole":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.held.cancel()
        if self.console.is_terminal:  # elsewhere it would end with an empty line
            self.bar.stop()

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        """A stage begins, of so many steps, `start` of which are done; None where there are none to be counted."""
        if name == self.name and steps is None:
            return  # it only goes on
        self.name = name
        self.pace = Pace(steps=steps, start=start)
        self.said = time.monotonic()
        self.latest = {}
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(name, total=steps, completed=start, pace=self.pace, numbers={})
        self.held.cancel()
        if self.console.is_terminal:
            return
        if steps is not None:
            self.say(f"{name} …")
        else:
            self.held = threading.Timer(HOLD_SECONDS, self.say, [f"{name} …"])
            self.held.daemon = True
            self.held.start()

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        """So many steps are done."""
        self.latest |= {name: numbers[name] for name in SHOWN if name in numbers}
        self.pace.step(done)
        title = self.name if node is None else f"{self.name}, node {node}"
        self.bar.update(self.task, completed=done, description=title, numbers=dict(self.latest))
        if not self.console.is_terminal and time.monotonic() - self.said > LINE_SECONDS:
            self.said = time.monotonic()
            parts = what_fits(self.pace, self.latest, room=10_000)
            self.console.print(f"{title}: {'  '.join(parts)}", soft_wrap=True, markup=False)

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)

    def interject(self, text: str) -> None:
        """say(), for a signal's handler: past the console's locks and buffers, which may be in use by what it interrupts."""
        try:
            descriptor = self.console.file.fileno()
        except (OSError, ValueError, AttributeError):  # a notebook's, which has none
            self.say(text)
            return
        over_the_bar = "\r\x1b[2K" if self.console.is_terminal else ""
        os.write(descriptor, f"{over_the_bar}{text}\n".encode())
