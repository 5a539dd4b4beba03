"""Losses are mended: roles are built anew, and whatever was lost with them, or waited for it, is made again in its order."""

from collections.abc import Iterable, Mapping

import ray

from disback_ray.actors.building import Builder
from disback_ray.actors.calls import NOTHING, Call, to_be_made_again
from disback_ray.actors.damage import Damage
from disback_ray.actors.losses import error_of, is_loss, plain
from disback_ray.actors.players import Audience, Player
from disback_ray.actors.signs_of_life import SignsOfLife
from disback_ray.actors.waiting import Waiting, is_ready
from disback_ray.actors.wire import unpack


class Mender:
    """Finds out what is lost, from the dead and from the calls that failed, and tells its audience once all is there again."""

    def __init__(
        self, players: Mapping[str, Player], signs: SignsOfLife, waiting: Waiting, builder: Builder, audience: Audience
    ) -> None:
        self.players, self.signs, self.waiting, self.builder, self.audience = players, signs, waiting, builder, audience

    def mend(self, wanted: Iterable[Call]) -> None:
        """Puts up again whatever was lost, until all calls have been made or are under way. Raises what a role raises."""
        dead = self.signs.take_dead()
        damage = Damage(gone=dead, anew=set(dead))
        while True:
            self._make_again({*self._settle(damage), *(call for call in wanted if call.missing)}, damage)
            if not damage.anew:
                break
        damage.tell(self.audience)

    def _settle(self, damage: Damage) -> list[Call]:
        """Waits until each call has been made or has failed; returns those that failed. Raises a role's own error, the first one's."""
        out = [call for player in self.players.values() for call in player.log if not call.good]
        self.waiting.until_there([call.note for call in out if call.nature != "aside"])
        for player in self.players.values():
            player.under_way.clear()
        failed = []
        for call in sorted(out, key=lambda call: call.index):
            if call.nature == "aside" and not is_ready(call):
                continue  # it holds nobody up
            error = error_of(call.note)
            call.good = error is None
            if error is None:
                continue
            if not is_loss(error):
                raise plain(error) from None
            failed.append(call)
            damage.note(call, error, self.players[call.role])
        return failed

    def _make_again(self, failed: set[Call], damage: Damage) -> None:
        logs = {name: player.log for name, player in self.players.items()}
        again, damage.anew = to_be_made_again(logs, gone=damage.anew, failed=failed)
        anew = set(damage.anew)
        self.builder.build(damage)
        for name, player in self.players.items():
            if name in anew:
                player.turns = 0
            else:  # what failed is the end of its queue: one call was not made, and none after it
                ended = (c.turn for c in failed if c.role == name and c.nature != "aside" and not c.missing)
                player.turns = min(ended, default=player.turns)
        self._replay(again, damage)

    def _replay(self, again: list[Call], damage: Damage) -> None:
        """Gives the calls again. Those whose results are there only bring their roles to where they were: they are compared."""
        replayed = []
        for call in again:
            there = call.good and not call.missing
            note, ref = self.players[call.role].send(call)
            if there:
                replayed.append((call, note, ref))
            else:
                call.note, call.ref, call.good, call.missing = note, ref, False, False
        damage.calls += len(again)
        self.waiting.until_there([note for _, note, _ in replayed])
        for call, note, ref in replayed:
            error = error_of(note)
            if error is not None and not is_loss(error):
                raise plain(error) from None
            if error is not None:
                damage.anew.add(call.role)
                damage.note(call, error, self.players[call.role])
            elif call.value is not NOTHING:
                damage.identical &= unpack(ray.get(ref)) == call.value
