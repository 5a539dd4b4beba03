"""Roles are built in their processes, in new ones where those are gone, as long as none is lost too often."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray

from disback_ray.actors.damage import Damage
from disback_ray.actors.losses import error_of, is_gone, is_of_another, plain, reason_of
from disback_ray.actors.players import Player
from disback_ray.actors.waiting import Waiting
from disback_ray.config import RecoveryLimits
from disback_ray.errors import ClusterError


class Builder:
    """seats: where each role, or each of its ranks, was built last."""

    def __init__(self, players: Mapping[str, Player], waiting: Waiting, limits: RecoveryLimits) -> None:
        self.players, self.waiting, self.limits = players, waiting, limits
        self.seats: dict[str, dict[str, Any]] = {}

    def build_all(self) -> Damage:
        """Builds every role in the process that it has; what was lost meanwhile. Raises what building raises, or ClusterError."""
        damage = Damage(anew=set(self.players))
        self.build(damage)
        return damage

    def build(self, damage: Damage) -> None:
        """Until each role of damage.anew is built, in a new process where its own is gone."""
        while damage.gone or damage.anew:
            self._replace(damage)
            self._build_once(damage)

    def _replace(self, damage: Damage) -> None:
        for name, reason in damage.gone.items():
            player = self.players[name]
            self.count(player, reason)
            damage.note_loss(name, reason)
            player.process.kill()
            player.process = player.spawn()
            player.built, player.why, player.beats = False, "", []
        damage.gone.clear()

    def _build_once(self, damage: Damage) -> None:
        """Those that are lost meanwhile are what is left of damage.anew."""
        builds = {name: self.players[name].process.build() for name in self.players if name in damage.anew}
        for name, seats in builds.items():
            self.players[name].builds = list(seats.values())
        self.waiting.until_there([build for seats in builds.values() for build in seats.values()])
        for name, seats in builds.items():
            self.players[name].builds = []
            errors = [error for build in seats.values() if (error := error_of(build)) is not None]
            gone = [error for error in errors if is_gone(error)]
            own = [error for error in errors if not is_gone(error) and not is_of_another(error)]
            if own or (errors and not gone):
                raise plain((own or errors)[0]) from None
            if gone:
                damage.gone[name] = self.players[name].why or reason_of(gone[0])
                continue
            self.players[name].built, self.players[name].beats = True, []
            for label, build in seats.items():
                seat = asdict(ray.get(build))
                self.seats[label] = {key: seat[key] for key in ("pid", "node", "node_id")} | {"devices": list(seat["devices"])}
        damage.anew = set(damage.gone)

    def count(self, player: Player, reason: str) -> None:
        """Counts a loss. Raises ClusterError where a role was lost too often."""
        now = time.monotonic()
        player.losses.append(now)
        while now - player.losses[0] > self.limits.within:
            player.losses.popleft()
        if len(player.losses) > self.limits.losses:
            times = f" {len(player.losses)} times within {self.limits.within:g} s" if len(player.losses) > 1 else ""
            raise ClusterError(
                f"{player.name} was lost{times}: {reason}; run the same command again to go on from the last checkpoint"
            )
