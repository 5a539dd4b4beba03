"""Signs of life: who hangs is ended, and who died with nothing to do is noticed. Asks in passing, and never waits."""

import time
from collections.abc import Mapping
from typing import Any

import ray

from disback_ray.actors.losses import error_of, is_gone, reason_of
from disback_ray.actors.players import Player
from disback_ray.config import RecoveryLimits

PATIENCE = 20.0
"""A call may take so many times the longest of its kind so far, and a first one so many times `recovery.hang`."""
BEGINNING = 5.0
"""So many times `recovery.hang` a process may be without a sign of life until its role is built: it imports, and reads weights."""


class SignsOfLife:
    """What each role's process was asked for last, and who is known to be dead. The players say who was ended, and why."""

    def __init__(self, players: Mapping[str, Player], limits: RecoveryLimits) -> None:
        self.players, self.limits = players, limits
        self._dead: dict[str, tuple[Any, str]] = {}

    def listen(self) -> bool:
        """Ends whoever hangs, or would: its calls fail then, and it is put up again. Whether somebody is dead whom no call may tell of."""
        for player in self.players.values():
            if not player.why:
                self.look_at_builds(player)
            if not player.why:
                self.listen_to(player, time.monotonic())
        return bool(self._dead)

    def take_dead(self) -> dict[str, str]:
        """Roles that died with nothing to do, and why, once: those that haven't been put up again since."""
        dead = {name: why for name, (process, why) in self._dead.items() if process is self.players[name].process}
        self._dead.clear()
        return dead

    def look_at_builds(self, player: Player) -> None:
        """Ends all ranks as soon as one is gone, or can't be built: the others would wait for it where they meet, and go with it anyway."""
        there, waiting = ray.wait(player.builds, num_returns=len(player.builds), timeout=0) if player.builds else ([], [])
        if waiting and (errors := [error for build in there if (error := error_of(build)) is not None]):
            _end(player, reason_of(next(filter(is_gone, errors), errors[0])))

    def listen_to(self, player: Player, now: float) -> None:
        if not player.beats:
            player.beats = [player.process.beat()] if player.built else player.process.beats()
            player.asked = now
        if ray.wait(player.beats, num_returns=len(player.beats), timeout=0)[1]:
            if not player.built and not player.process.has_begun():
                player.asked = now  # whoever waits for a place doesn't hang
            elif now - player.asked > self.limits.hang * (1 if player.built else BEGINNING):
                _end(player, f"it gave no sign of life for {now - player.asked:.0f} s")
            return
        beats, player.beats = player.beats, []
        if errors := [error for beat in beats if (error := error_of(beat)) is not None]:
            if player.built and is_gone(errors[0]):  # its calls will tell, if there are any
                self._dead[player.name] = player.process, reason_of(errors[0])
            return
        method, seconds, longest = max(ray.get(beats), key=lambda beat: beat[1])
        if seconds > (max(self.limits.hang, PATIENCE * longest) if longest else PATIENCE * self.limits.hang):
            _end(player, f"it hung in {method} for {seconds:.0f} s")


def _end(player: Player, why: str) -> None:
    player.why = why
    player.process.kill_stuck()
