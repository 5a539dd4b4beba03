"""Roles that outlive their processes: what each was asked for is remembered, and made again where a process is lost.

No gradient crosses between the roles, and all randomness is keyed. So a role that is built anew, loads the last checkpoint and is
given its calls since then again, in their order, is bit for bit the one that was lost, while the others keep what they have.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray._private.state import state as typed_state
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from disback_ray.actors.calls import NOTHING, Call, forget_before, nature_of, to_be_made_again
from disback_ray.actors.losses import cause_of, error_of, is_gone, is_loss, parted, plain, reason_of
from disback_ray.actors.on_ray import OnRay
from disback_ray.actors.players import Audience, Player, Proxy, Recovered
from disback_ray.actors.rank_group import RankGroup
from disback_ray.actors.slowness import Slowness
from disback_ray.actors.timesheet import Account
from disback_ray.actors.wire import unpack
from disback_ray.config import RecoveryLimits
from disback_ray.errors import ClusterError

state: Any = typed_state

PATIENCE = 20.0
"""A call may take so many times the longest of its kind so far, and a first one so many times `recovery.hang`."""
PINGS = 7
IDLE_SECONDS = 5.0
"""So often a role that has nothing to do is asked for a sign of life, and Ray for machines that are to go."""
BEGINNING = 5.0
"""So many times `recovery.hang` a process may be without a sign of life until its role is built: it imports, and reads weights."""
LOOK_SECONDS = 1.0
"""So long a wait lasts before it looks up: at Ctrl-C, at what has failed, and at what there is to be said. The first ones are shorter."""


@dataclass
class _Mending:
    """What is found to be wrong while it is put right. anew: roles to be built again; gone: those without a process, and why."""

    began: float = field(default_factory=time.monotonic)
    gone: dict[str, str] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)
    losses: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    identical: bool = True


class Recovery:
    """All roles of a run, their calls in one order, and whoever of them is lost put up again. seats: where each runs at the moment."""

    def __init__(self, limits: RecoveryLimits, audience: Audience, *, missing: Callable[[], str]) -> None:
        """missing: what the cluster lacks at the moment of what was reserved, in one line; nothing while it has it."""
        self.limits, self.audience, self.missing = limits, audience, missing
        self.players: dict[str, Player] = {}
        self.seats: dict[str, dict[str, Any]] = {}
        self.calls = 0
        self.slowness = Slowness()
        self.dead: dict[str, tuple[Any, str]] = {}
        self.drained: set[str] = set()
        self.looked = self.looked_who_leaves = time.monotonic()

    def seat(self, roles: Mapping[str, tuple[Callable[..., Any], Callable[[], OnRay | RankGroup]]]) -> dict[str, Proxy]:
        """Builds each role, given its class and how to begin a process for it. Raises what building raises, or ClusterError."""
        self.players = {name: Player(name, role, spawn, spawn()) for name, (role, spawn) in roles.items()}
        mending = _Mending(anew=set(self.players))
        while mending.anew:
            self._build(mending)
        self._tell_of(mending)
        return {name: Proxy(player, self.submit) for name, player in self.players.items()}

    def submit(self, player: Player, method: str, *args: Any, **kwargs: Any) -> Call:
        call = Call(player.name, method, nature_of(player.role, method), args, kwargs, self.calls)
        self.calls += 1
        player.log.append(call)
        call.note, call.ref = self._send(call)
        return call

    def wait(self, later: Any) -> Any:
        """Calls → their values, in nested lists and tuples too. Raises the role's own error, or ClusterError where it is lost for good."""
        asked = [call for call in _calls_in(later) if call.value is NOTHING]
        if asked:
            self._fetch(asked)
        self._look_now_and_then()
        return _values_in(later)

    def _fetch(self, calls: list[Call]) -> None:
        """All values at once, which is one question to Ray; one after the other where something is lost."""
        while True:
            try:
                got = ray.get([call.ref for call in calls], timeout=LOOK_SECONDS)
                break
            except GetTimeoutError:
                self._look_after()
                if self._failed():
                    got = [self._wait_for(call, result=True) for call in calls]
                    break
            except RayError:
                got = [self._wait_for(call, result=True) for call in calls]
                break
        for call, value in zip(calls, got, strict=True):
            call.value, call.good = unpack(value), True

    def _wait_for(self, call: Call, *, result: bool = False) -> Any:
        """Until it has been made, whoever has to make it in the end; its result is fetched only where it is asked for."""
        while True:
            try:
                got = ray.get([call.note, call.ref] if result else [call.note], timeout=LOOK_SECONDS)
                call.good = True
                return got[-1]
            except GetTimeoutError:
                self._look_after()
                if self._failed():
                    self._mend([call])
            except RayError as error:
                if not is_loss(error):
                    raise plain(error) from None
                call.missing = isinstance(error, ObjectLostError) and not isinstance(error, RayTaskError)
                self._mend([call])

    def _say_who_is_slow(self, calls: Iterable[Call]) -> None:
        made = [call for call in calls if call.note is not None and call.nature != "aside"]
        seconds = ray.get([call.note for call in made])
        for line in self.slowness.note((call.role, call.method, each) for call, each in zip(made, seconds, strict=True)):
            self.audience.say(line)

    def _all_made(self, calls: Iterable[Call]) -> None:
        """Until all have been made: at once where nothing was lost, which is almost always."""
        out = [call for call in calls if not call.good]
        whole = self._until_there([call.note for call in out], unless_failed=True)
        if whole:
            try:
                ray.get([call.note for call in out])
            except RayError:
                whole = False
        for call in out:
            if not whole:
                self._wait_for(call)
            call.good = True

    def is_ready(self, later: Any) -> bool:
        """Whether waiting would not block."""
        if isinstance(later, (list, tuple)):
            return all(self.is_ready(each) for each in later)
        return not isinstance(later, Call) or bool(ray.wait([later.note], timeout=0)[0])

    def kept(self, points: Sequence[tuple[Call, tuple[Any, ...], dict[str, Any]]] = ()) -> None:
        """From now on each role goes on from its snapshot, given the call that took it, and what `load` takes; none: from now.

        What all roles were asked for before is waited for, and forgotten. No role but the saved ones may have been changed by it.
        """
        loads = {
            taken.role: Call(taken.role, "load", "starts", args, kwargs, taken.index, good=True) for taken, args, kwargs in points
        }
        first = min((load.index for load in loads.values()), default=self.calls)
        logs: dict[str, list[Call]] = {}
        for name, player in self.players.items():
            load = loads.get(name)
            log = [call for call in player.log if not (call.nature == "aside" and call.good)]  # they hold snapshots
            logs[name] = forget_before(log, load.index if load else first)
            if load:  # in place of the call that took the snapshot, and of what began the role before
                logs[name] = [load, *(call for call in logs[name] if call.index > load.index)]
        dropped = [call for name, player in self.players.items() for call in set(player.log).difference(logs[name])]
        self._all_made(dropped)
        self._say_who_is_slow(dropped)
        for name, player in self.players.items():
            player.log = logs[name]
            notes = {call.note for call in player.log}
            player.under_way = {turn: note for turn, note in player.under_way.items() if note in notes}

    def accounts(self) -> tuple[dict[str, Account], dict[str, float]]:
        """Each seat's calls since it was last asked, and what to add to its clock to have the driver's. Lost ones are left out."""
        here = ray.get_runtime_context().get_node_id()
        accounts, clocks = {}, {}
        for player in self.players.values():
            for seat, actor in player.process.actors.items():
                try:
                    accounts[seat] = ray.get(actor.account.remote())
                    clocks[seat] = 0.0 if self.seats[seat]["node_id"] == here else _clock(actor)  # of a machine, there is one
                except RayError:
                    accounts.pop(seat, None)
        return accounts, clocks

    def renew(self) -> None:
        """Builds every role anew, in the process that it has, as if nothing had been asked of any. What is under way ends first."""
        self._until_there([call.note for player in self.players.values() for call in player.log if call.note is not None])
        for player in self.players.values():
            player.log, player.turns, player.under_way = [], 0, {}
        mending = _Mending(anew=set(self.players))
        while mending.anew:
            self._build(mending)

    def leaving(self) -> list[str]:
        """Machines with a role on them that have said, since this was last asked, that they are to go."""
        if time.monotonic() - self.looked_who_leaves < IDLE_SECONDS:
            return []
        self.looked_who_leaves = time.monotonic()
        draining = set(state.get_draining_nodes())
        new, self.drained = draining - self.drained, draining
        return sorted({f"{seat['node']} ({name})" for name, seat in self.seats.items() if seat["node_id"] in new})

    # -- losses --

    def _mend(self, wanted: Iterable[Call]) -> None:
        """Puts up again whatever was lost, until all calls have been made or are under way. Raises what a role raises."""
        dead = {name: why for name, (process, why) in self.dead.items() if process is self.players[name].process}
        self.dead.clear()
        mending = _Mending(gone=dead, anew=set(dead))
        while True:
            self._make_again({*self._settle(mending), *(call for call in wanted if call.missing)}, mending)
            if not mending.anew:
                break
        self._tell_of(mending)

    def _tell_of(self, mending: _Mending) -> None:
        if mending.losses:
            reason = next(iter(mending.losses.values()))
            seconds = time.monotonic() - mending.began
            self.audience.recovered(Recovered(tuple(mending.losses), reason, seconds, mending.calls, mending.identical))

    def _settle(self, mending: _Mending) -> list[Call]:
        """Waits until each call has been made or has failed; returns those that failed. Raises a role's own error, the first one's."""
        out = [call for player in self.players.values() for call in player.log if not call.good]
        self._until_there([call.note for call in out if call.nature != "aside"])
        for player in self.players.values():
            player.under_way.clear()
        failed = []
        for call in sorted(out, key=lambda call: call.index):
            if call.nature == "aside" and not self.is_ready(call):
                continue  # it holds nobody up
            error = error_of(call.note)
            call.good = error is None
            if error is None:
                continue
            if not is_loss(error):
                raise plain(error) from None
            failed.append(call)
            self._note_loss(call, error, mending)
        return failed

    def _note_loss(self, call: Call, error: BaseException, mending: _Mending) -> None:
        cause = cause_of(error)
        lately = call.process is self.players[call.role].process  # and not one that has long been replaced
        if is_gone(error) and lately and call.role not in mending.gone:
            mending.gone[call.role] = self.players[call.role].why or reason_of(error)
            mending.anew.add(call.role)
        if isinstance(cause, ObjectLostError):
            for need in call.needs():
                need.missing |= need.ref.hex() == cause.object_ref_hex

    def _make_again(self, failed: set[Call], mending: _Mending) -> None:
        logs = {name: player.log for name, player in self.players.items()}
        again, anew = to_be_made_again(logs, gone=mending.anew, failed=failed)
        mending.anew = set(anew)
        while mending.gone or mending.anew:
            self._build(mending)
        for name, player in self.players.items():
            if name in anew:
                player.turns = 0
            else:  # what failed is the end of its queue: one call was not made, and none after it
                ended = (c.turn for c in failed if c.role == name and c.nature != "aside" and not c.missing)
                player.turns = min(ended, default=player.turns)
        replayed = []
        for call in again:
            there = call.good and not call.missing
            note, ref = self._send(call)
            if there:
                replayed.append((call, note, ref))
            else:
                call.note, call.ref, call.good, call.missing = note, ref, False, False
        mending.calls += len(again)
        self._until_there([note for _, note, _ in replayed])
        for call, note, ref in replayed:
            error = error_of(note)
            if error is not None and not is_loss(error):
                raise plain(error) from None
            if error is not None:
                mending.anew.add(call.role)
                self._note_loss(call, error, mending)
            elif call.value is not NOTHING:
                mending.identical &= unpack(ray.get(ref)) == call.value

    def _build(self, mending: _Mending) -> None:
        """Builds each role of mending.anew, in a new process where its own is gone; those that are lost meanwhile stay there."""
        for name, reason in mending.gone.items():
            player = self.players[name]
            self._count(player, reason)
            before = mending.losses.get(name)
            mending.losses[name] = f"{before}, then {reason}" if before else reason
            player.process.kill()
            player.process = player.spawn()
            player.built, player.why, player.beats = False, "", []
        mending.gone.clear()
        builds = {name: self.players[name].process.build() for name in self.players if name in mending.anew}
        self._until_there([build for seats in builds.values() for build in seats.values()])
        for name, seats in builds.items():
            errors = [error for build in seats.values() if (error := error_of(build)) is not None]
            gone = [error for error in errors if is_gone(error)]
            if errors and not gone:
                raise plain(errors[0]) from None
            if gone:
                mending.gone[name] = self.players[name].why or reason_of(gone[0])
                continue
            self.players[name].built, self.players[name].beats = True, []
            for label, build in seats.items():
                seat = asdict(ray.get(build))
                self.seats[label] = {key: seat[key] for key in ("pid", "node", "node_id")} | {"devices": list(seat["devices"])}
        mending.anew = set(mending.gone)

    def _count(self, player: Player, reason: str) -> None:
        """Raises ClusterError where a role was lost too often."""
        now = time.monotonic()
        player.losses.append(now)
        while now - player.losses[0] > self.limits.within:
            player.losses.popleft()
        if len(player.losses) > self.limits.losses:
            times = f" {len(player.losses)} times within {self.limits.within:g} s" if len(player.losses) > 1 else ""
            raise ClusterError(
                f"{player.name} was lost{times}: {reason}; run the same command again to go on from the last checkpoint"
            )

    # -- waiting --

    def _look_now_and_then(self) -> None:
        """Who has died while it had nothing to do is put up again now, and not only when it is needed."""
        if time.monotonic() - self.looked > IDLE_SECONDS:
            self.looked = time.monotonic()
            self._look_after()
            if self.dead:
                self._mend([])

    def _look_after(self) -> None:
        """Ends whoever hangs: its calls fail then, and it is put up again. Asks in passing, and never waits."""
        for player in self.players.values():
            if not player.why:
                self._listen_to(player, time.monotonic())

    def _listen_to(self, player: Player, now: float) -> None:
        if not player.beats:
            player.beats = [player.process.beat()] if player.built else player.process.beats()
            player.asked = now
        if ray.wait(player.beats, num_returns=len(player.beats), timeout=0)[1]:
            if not player.built and not player.process.has_begun():
                player.asked = now  # whoever waits for a place doesn't hang
            elif now - player.asked > self.limits.hang * (1 if player.built else BEGINNING):
                self._end(player, f"it gave no sign of life for {now - player.asked:.0f} s")
            return
        beats, player.beats = player.beats, []
        if errors := [error for beat in beats if (error := error_of(beat)) is not None]:
            if player.built and is_gone(errors[0]):  # its calls will tell, if there are any
                self.dead[player.name] = player.process, reason_of(errors[0])
            return
        method, seconds, longest = max(ray.get(beats), key=lambda beat: beat[1])
        if seconds > (max(self.limits.hang, PATIENCE * longest) if longest else PATIENCE * self.limits.hang):
            self._end(player, f"it hung in {method} for {seconds:.0f} s")

    def _end(self, player: Player, why: str) -> None:
        player.why = why
        player.process.kill_stuck()

    def _send(self, call: Call) -> tuple[Any, Any]:
        """Hands a call to its role's process, with the results of others as they are to be had now."""
        player = self.players[call.role]
        call.process = player.process
        given = [arg.ref if isinstance(arg, Call) else arg for arg in call.args]
        named = {name: arg.ref if isinstance(arg, Call) else arg for name, arg in call.kwargs.items()}
        if call.nature == "aside":
            return player.process.aside(call.method, *given, **named)
        call.turn, player.turns = player.turns, player.turns + 1
        note, result = player.process.call(call.turn, call.method, *given, **named)
        player.under_way[call.turn] = note
        return note, result

    def _failed(self) -> dict[str, int]:
        """Roles with a call that failed, and its first turn: those behind it wait in vain for theirs. What was made is crossed off."""
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

    def _until_there(self, refs: list[Any], *, unless_failed: bool = False) -> bool:
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
            self._look_after()
            failed = self._failed()
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


def _calls_in(later: Any) -> Iterator[Call]:
    if isinstance(later, (list, tuple)):
        for each in later:
            yield from _calls_in(each)
    elif isinstance(later, Call):
        yield later


def _values_in(later: Any) -> Any:
    if isinstance(later, (list, tuple)):
        return [_values_in(each) for each in later]
    return later.value if isinstance(later, Call) else later


def _clock(actor: Any) -> float:
    """Seconds to add to an actor's clock to have this process's: by the shortest of some round trips, to half its length."""
    trips: list[tuple[float, float]] = []
    for _ in range(PINGS):
        before = time.monotonic()
        theirs = ray.get(actor.clock.remote())
        after = time.monotonic()
        trips.append((after - before, (before + after) / 2 - theirs))
    return min(trips)[1]
