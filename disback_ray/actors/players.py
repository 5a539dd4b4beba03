"""Who plays: a role with whichever process it is in, the proxy that stands for it, and who hears of its losses."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from disback_ray.actors.calls import Call
from disback_ray.actors.on_ray import OnRay
from disback_ray.actors.rank_group import RankGroup


@dataclass(frozen=True)
class Recovered:
    """Roles that were lost together, and are there again. reason: of the first; calls: made again for it.

    identical: whether what the driver had been given before was given again, bit for bit.
    """

    roles: tuple[str, ...]
    reason: str
    seconds: float
    calls: int
    identical: bool


class Audience(Protocol):
    """Who hears of losses. gives_up: whether somebody asked for a stop, so that waiting for a place has no sense any more."""

    def recovered(self, event: Recovered) -> None: ...

    def say(self, text: str) -> None: ...

    def gives_up(self) -> bool: ...


@dataclass
class Player:
    """One role, whichever process it is in. spawn: a new process for it; a group of ranks is one, and is lost and begun together.

    turns: so many calls its process has been given; log: its calls since it was last saved; losses: when its process was lost.
    under_way: the turns of calls that aren't known to have been made, and their notes.
    built: whether its process has the role; builds: what each of its ranks gives once it has; why: it was ended.
    beats, asked: the signs of life that are waited for, and since when.
    """

    name: str
    role: Callable[..., Any]
    spawn: Callable[[], OnRay | RankGroup]
    process: OnRay | RankGroup
    built: bool = False
    builds: list[Any] = field(default_factory=list)
    why: str = ""
    beats: list[Any] = field(default_factory=list)
    asked: float = 0.0
    turns: int = 0
    log: list[Call] = field(default_factory=list)
    under_way: dict[int, Any] = field(default_factory=dict)
    losses: deque[float] = field(default_factory=deque)

    def send(self, call: Call) -> tuple[Any, Any]:
        """Hands a call to the process, with the results of others as they are to be had now. References: see Call.note, Call.ref."""
        call.process = self.process
        given = [arg.ref if isinstance(arg, Call) else arg for arg in call.args]
        named = {name: arg.ref if isinstance(arg, Call) else arg for name, arg in call.kwargs.items()}
        if call.nature == "aside":
            return self.process.aside(call.method, *given, **named)
        call.turn, self.turns = self.turns, self.turns + 1
        note, result = self.process.call(call.turn, call.method, *given, **named)
        self.under_way[call.turn] = note
        return note, result


class Proxy:
    """A role's stand-in: `name(*args)` → a call of the role's `name(*args)`, whose result comes later."""

    def __init__(self, player: Player, submit: Callable[..., Call]) -> None:
        self._player, self._submit = player, submit

    def __getattr__(self, method: str) -> Callable[..., Call]:
        return lambda *args, **kwargs: self._submit(self._player, method, *args, **kwargs)
