"""A cast over real actors for a benchmark, and the real way of following its steps."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from disback_ray.actors.company import Company, hosted
from disback_ray.actors.parts import Part
from disback_ray.actors.placement import place
from disback_ray.actors.players import Recovered
from disback_ray.algorithms.cast import Cast, Step
from disback_ray.config import RecoveryLimits, RoleResources
from disback_ray.following import Follower
from disback_ray.interruption import Stop
from disback_ray.progress import Silent
from disback_ray.storage import Folder


class Unheard:
    """Nobody watches, and nothing is to be lost."""

    def recovered(self, event: Recovered) -> None:
        raise RuntimeError(f"a role was lost: {event}")

    def say(self, text: str) -> None:
        pass

    def gives_up(self) -> bool:
        return False


@dataclass
class Rows:
    """Where the follower puts a step's numbers: it is told of each, and keeps none."""

    each: Callable[[], None]
    seconds: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        self.each()


@dataclass(frozen=True)
class Stage:
    """The cast, and the company that it belongs to."""

    cast: Cast
    company: Any

    def follow(self, steps: Iterator[Step], *, each: Callable[[], None]) -> None:
        """Plays the steps as a run does; each: called when a step has ended."""
        rows: Any = Rows(each)
        Follower(self.company, rows, Silent(), stop=Stop(lambda text: None)).follow(steps, after=lambda step: None)


@contextmanager
def staged(parts: Mapping[str, Part], roles: Mapping[str, RoleResources]) -> Iterator[Stage]:
    """The parts in actors of the Ray that this process is connected to; gone with the block. Without a path there is no path node."""
    placement = place(roles, timeout=60)
    with TemporaryDirectory() as folder:
        shared = Folder.at(folder)
        shared.write("proof", b"seen")
        made, recovery = hosted(
            parts, roles, placement, shared=shared, proof="proof", limits=RecoveryLimits(), audience=Unheard(), trace=False
        )
        cast = Cast(made["teacher"], made.get("path_node", made["teacher"]), made["fake_score"], made["generator"])
        company = Company(
            cast=cast, teacher=None, fake_score=None, generator=None, evaluator=None, wait=recovery.wait,
            is_ready=recovery.is_ready, kept=recovery.kept, log_steps=None, accounts=recovery.accounts,
            renew=recovery.renew, leaving=recovery.leaving,
            seats=recovery.seats,
        )  # fmt: skip
        try:
            yield Stage(cast, company)
        finally:
            placement.remove()
