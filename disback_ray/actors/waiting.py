"""Waiting for calls, with an eye on who hangs, on what has failed, and on places that are missing."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from disback_ray.actors.calls import Call
from disback_ray.actors.losses import parted
from disback_ray.actors.players import Audience, Player
from disback_ray.actors.signs_of_life import SignsOfLife

LOOK_SECONDS = 1.0
"""So long a wait lasts before it looks up: at Ctrl-C, at what has failed, and at what there is to be said. The first ones are shorter."""


class Waiting:
    """Mends nothing: whoever waits meets the errors. missing: see Recovery."""

    def __init__(
        self, players: Mapping[str, Player], signs: SignsOfLife, audience: Audience, *, missing: Callable[[], str]
    ) -> None:
        self.players, self.signs, self.audience, self.missing = players, signs, audience, missing

    def until_there(self, refs: list[Any], *, unless_failed: bool = False) -> bool:
        """Waits until each has a value or an error; with unless_failed, no longer than until a call of any role has an error.

        Whether they are there. Raises KeyboardInterrupt where there is no place, and somebody asks for a stop.
        """
        said = ""
        seconds = LOOK_SECONDS / 32
        while refs:
            _, refs = ray.wait(refs, num_returns=len(refs), timeout=seconds)
            seconds = min(2 * seconds, LOOK_SECONDS)
            if not refs:
                break
            failed = self.look_up()
            if failed and unless_failed:
                return False
            for name, turn in failed.items():
                self.players[name].process.dismiss(turn)
                seconds = LOOK_SECONDS / 32  # whoever is dismissed fails now, and others with it
            missing = self.missing()
            if missing and missing != said:
                self.audience.say(f"waiting: {missing}; the run goes on as soon as that is there")
                said = missing
            if missing and self.audience.gives_up():
                raise KeyboardInterrupt
        return True

    def look_up(self) -> dict[str, int]:
        """Ends whoever hangs. Roles with a call that failed, and its first turn: those behind it wait in vain for theirs.

        What was made is crossed off.
        """
        self.signs.listen()
        failed = {}
        for name, player in self.players.items():
            turns = {note: turn for turn, note in player.under_way.items()}
            made, _ = ray.wait(list(turns), num_returns=len(turns), timeout=0) if turns else ([], [])
            try:
                ray.get(made)
            except RayError:
                made, wrong = parted(made)
                failed[name] = min(turns[note] for note in wrong)
            for note in made:
                del player.under_way[turns[note]]
        return failed


def is_ready(later: Any) -> bool:
    """Whether waiting would not block: calls, in nested lists and tuples too."""
    if isinstance(later, (list, tuple)):
        return all(is_ready(each) for each in later)
    return not isinstance(later, Call) or bool(ray.wait([later.note], timeout=0)[0])
