"""What is found to be wrong with the roles while it is put right, and how it is told."""

import time
from dataclasses import dataclass, field

from ray.exceptions import ObjectLostError

from disback_ray.actors.calls import Call
from disback_ray.actors.losses import cause_of, is_gone, reason_of
from disback_ray.actors.players import Audience, Player, Recovered


@dataclass
class Damage:
    """anew: roles to be built again; gone: those without a process, and why.

    losses: the reasons of each role that was replaced; calls: so many were made again; identical: see Recovered.
    """

    began: float = field(default_factory=time.monotonic)
    gone: dict[str, str] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)
    losses: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    identical: bool = True

    def note(self, call: Call, error: BaseException, player: Player) -> None:
        """What a call's error says is lost: the process of its role, or a result among its arguments, which is then missing."""
        cause = cause_of(error)
        lately = call.process is player.process  # and not one that has long been replaced
        if is_gone(error) and lately and call.role not in self.gone:
            self.gone[call.role] = player.why or reason_of(error)
            self.anew.add(call.role)
        if isinstance(cause, ObjectLostError):
            for need in call.needs():
                need.missing |= need.ref.hex() == cause.object_ref_hex

    def note_loss(self, name: str, reason: str) -> None:
        """A role's process is replaced; it may not be the first time."""
        before = self.losses.get(name)
        self.losses[name] = f"{before}, then {reason}" if before else reason

    def tell(self, audience: Audience) -> None:
        if self.losses:
            reason = next(iter(self.losses.values()))
            seconds = time.monotonic() - self.began
            audience.recovered(Recovered(tuple(self.losses), reason, seconds, self.calls, self.identical))
