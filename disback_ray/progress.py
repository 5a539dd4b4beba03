"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 15.0
SHOWN = ("fake_loss", "field_norm", "loss", "frechet", "sliced_wasserstein")


class Watcher(Protocol):
    """What a run tells those who watch it."""

    def stage(self, name: str, *, steps: int, start: int = 0) -> None: ...

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, *, steps: int, start: int = 0) -> None:
        pass

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class OnConsole:
    """A rich progress bar with stage, node, step rate, losses and time left; without a terminal, the same as lines."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[numbers]}"),
            console=self.console, transient=True,
        )  # fmt: skip
        self.task: Any = None
        self.latest: dict[str, float] = {}

    def __enter__(self) -> "OnConsole":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:  # elsewhere it would end with an empty line
            self.bar.stop()

    def stage(self, name: str, *, steps: int, start: int = 0) -> None:
        """A stage of so many steps begins, `start` of which are done."""
        self.name, self.steps, self.start = name, steps, start
        self.began: float | None = None
        self.said = time.monotonic()
        self.latest = {}
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(name, total=steps, completed=start, rate="", numbers="")
        if not self.console.is_terminal:
            self.console.print(f"{name} …")

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        """So many steps are done."""
        self.latest |= {name: numbers[name] for name in SHOWN if name in numbers}
        if self.began is None and done > self.start:  # what went before the first step, such as starting workers, is no step
            self.began, self.start = time.monotonic(), done
        elapsed = time.monotonic() - self.began if self.began is not None else 0.0
        rate = (done - self.start) / elapsed if elapsed > 0 else 0.0
        title = self.name if node is None else f"{self.name}, node {node}"
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.latest.items())
        speed = f"{rate:.1f}/s" if rate else ""
        self.bar.update(self.task, completed=done, description=title, rate=speed, numbers=shown)
        if not self.console.is_terminal and time.monotonic() - self.said > LINE_SECONDS:
            self.said = time.monotonic()
            left = f"{(self.steps - done) / rate:.0f} s left" if rate else ""
            self.console.print(f"{title}: {done}/{self.steps}  {speed}  {left}  {shown}", soft_wrap=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)
