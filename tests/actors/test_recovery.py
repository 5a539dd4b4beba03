"""Roles in processes: values, errors and order; and whoever is lost is there again, with all that it knew."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from disback_ray.actors import building, recovery, signs_of_life, waiting
from disback_ray.actors import hosted as hosting
from disback_ray.actors.building import Builder
from disback_ray.actors.calls import Call, looks, starts
from disback_ray.actors.damage import Damage
from disback_ray.actors.on_ray import OnRay
from disback_ray.actors.placement import Whereabouts
from disback_ray.actors.players import Player, Proxy, Recovered
from disback_ray.actors.recovery import Recovery
from disback_ray.actors.signs_of_life import SignsOfLife
from disback_ray.actors.turns import OutOfTurn
from disback_ray.actors.waiting import Waiting
from disback_ray.config import RecoveryLimits
from disback_ray.errors import ClusterError, DeviceMemoryError, NonFiniteError
from disback_ray.storage import Folder


class Role:
    """Remembers what it was given. `die` ends its process, unless the file says that it has died before.

    hangs: it stops its own process while it is built, unless that file is there.
    """

    def __init__(self, start: int = 0, hangs: str = "", **errors: Exception) -> None:
        if hangs and not os.path.exists(hangs):
            open(hangs, "x").close()
            os.kill(os.getpid(), signal.SIGSTOP)
        self.seen: list[Any] = [start]
        self.errors = errors

    def add(self, x: Any) -> list[Any]:
        self.seen.append(x)
        return list(self.seen)

    @starts
    def begin(self, x: Any) -> list[Any]:
        self.seen = [x]
        return []

    load = begin

    @looks
    def look(self, *_: Any) -> list[Any]:
        return list(self.seen)

    @looks
    def double(self, x: Any) -> Any:
        return x * 2

    @looks
    def threads(self) -> int:
        return torch.get_num_threads()

    def fail(self, name: str) -> None:
        raise self.errors[name]

    @looks
    def slow(self) -> str:
        time.sleep(1)
        return "done"

    def pause(self, once: str) -> list[Any]:
        """Takes no time but the first time, when it takes an hour."""
        if not os.path.exists(once):
            open(once, "x").close()
            time.sleep(3600)
        return self.add("paused")

    def no_room(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    def die(self, once: str, x: Any = None) -> list[Any]:
        if not os.path.exists(once):
            open(once, "x").close()
            os._exit(1)
        return self.add(x)


@dataclass
class Heard:
    events: list[Recovered] = field(default_factory=list)

    def recovered(self, event: Recovered) -> None:
        self.events.append(event)

    def say(self, text: str) -> None:
        raise AssertionError(text)

    def gives_up(self) -> bool:
        return False


@dataclass
class Troupe:
    recovery: Recovery
    heard: Heard
    proxies: dict[str, Proxy]


Seat = Callable[..., Troupe]


@pytest.fixture
def seat(attached: str, tmp_path: Path) -> Seat:
    """Roles by name, each with what builds it."""
    (tmp_path / "proof").write_text("")

    def make(*, losses: int = 5, hang: float = 60.0, **parts: dict[str, Any]) -> Troupe:
        heard = Heard()
        ours = Recovery(RecoveryLimits(losses=losses, hang=hang), heard, missing=lambda: "")
        begin = {
            name: partial(
                OnRay, name, (Role, arguments),
                options={"num_cpus": 0}, threads=3, shared=Folder.at(tmp_path), proof="proof",
            )
            for name, arguments in parts.items()
        }  # fmt: skip
        return Troupe(ours, heard, ours.seat({name: (Role, start) for name, start in begin.items()}))

    return make


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_values_errors_and_order(seat: Seat) -> None:
    ours = NonFiniteError("the score has NaN: lower its lr")
    troupe = seat(teacher={"nan": ours})
    role, wait, is_ready = troupe.proxies["teacher"], troupe.recovery.wait, troupe.recovery.is_ready
    first = role.double(torch.arange(3))
    assert isinstance(first, Call)
    assert isinstance(first.ref, ray.ObjectRef)
    assert wait(role.double(first)).tolist() == [0, 4, 8], "what comes later is an argument like another"
    assert wait([role.threads(), (first, [])])[0] == 3
    late = role.slow()
    assert not is_ready([first, (late, [])])
    assert is_ready([first])
    assert wait(late) == "done"
    assert is_ready([first, (late, [])])
    failed = role.fail("nan")
    for later in ([first, [failed]], role.double(failed), role.look()):
        with pytest.raises(NonFiniteError) as raised:
            wait(later)
        assert str(raised.value) == str(ours)
    assert not troupe.heard.events


def test_whoever_is_lost_is_there_again_with_all_that_it_knew(seat: Seat, tmp_path: Path) -> None:
    """`a` dies in the midst of its calls, and `b`, which waits for what `a` gives, misses none and makes none twice."""
    troupe = seat(a={}, b={"start": 7})
    a, b = troupe.proxies["a"], troupe.proxies["b"]
    before = troupe.recovery.wait([a.add(1), b.add(2), a.look()])
    assert before == [[0, 1], [7, 2], [0, 1]]
    pids = {name: place["pid"] for name, place in troupe.recovery.seats.items()}
    once = str(tmp_path / "died")
    calls = [a.add(3), b.add(a.look()), a.die(once, 4), b.add(a.add(5)), b.add(6), a.add(b.look()), b.look(), a.look()]
    assert troupe.recovery.wait(calls[-1]) == [0, 1, 3, 4, 5, [7, 2, [0, 1, 3], [0, 1, 3, 4, 5], 6]]
    assert troupe.recovery.wait(calls[-2]) == [7, 2, [0, 1, 3], [0, 1, 3, 4, 5], 6]
    assert troupe.recovery.wait(calls[0]) == [0, 1, 3]
    (event,) = troupe.heard.events
    assert (event.roles, event.reason, event.identical) == (("a",), "its process died", True)
    now = {name: place["pid"] for name, place in troupe.recovery.seats.items()}
    assert (now["a"] != pids["a"], now["b"]) == (True, pids["b"])


def test_from_where_it_was_saved(seat: Seat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from what `load` gives; nothing that came before is asked of it or kept for it. A replay that differs is told.

    So is the death of one that has nothing to do, without a call of it.
    """
    troupe = seat(a={})
    a, wait = troupe.proxies["a"], troupe.recovery.wait
    wait([a.begin(1), a.add(2)])
    saved = a.look()
    later = a.add(3)
    wait([saved, later])
    troupe.recovery.kept([(saved, (["loaded"],), {})])
    log = troupe.recovery.players["a"].log
    assert [(call.method, call.args) for call in log] == [("load", (["loaded"],)), ("add", (3,))]
    assert wait(a.die(str(tmp_path / "died"), 4)) == [["loaded"], 3, 4]
    troupe.recovery.kept()
    assert [call.method for call in troupe.recovery.players["a"].log] == ["load"], "the last start stays"
    call = a.add(5)
    given = wait(call)
    call.args = (6,)  # as if it had computed something else
    monkeypatch.setattr(recovery, "IDLE_SECONDS", 0.0)
    os.kill(troupe.recovery.seats["a"]["pid"], signal.SIGKILL)
    end = time.monotonic() + 60
    while len(troupe.heard.events) < 2 and time.monotonic() < end:
        wait([])
    assert len(troupe.heard.events) == 2, "it is put up again though nobody needs it"
    assert len(troupe.recovery.players["a"].log) == 2, "it was asked for nothing more"
    assert wait(a.look()) == [["loaded"], 6]
    assert [event.identical for event in troupe.heard.events] == [False, False], "add(3) once gave [1, 2, 3]"
    assert wait(call) == given, "what was given once stays given"


def test_who_hangs_is_given_up_and_put_up_again(seat: Seat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a call, or altogether: a stopped process gives no sign of life, and doesn't hear that it is to end.

    While it is built, too, at first and in the place of another.
    """
    monkeypatch.setattr(signs_of_life, "BEGINNING", 1.0)
    hangs = tmp_path / "built"
    troupe = seat(a={"hangs": str(hangs)}, hang=3, losses=50)
    (event,) = troupe.heard.events
    assert event.reason.startswith("it gave no sign of life for "), event
    a, wait = troupe.proxies["a"], troupe.recovery.wait
    (tmp_path / "done").touch()
    wait([a.add(1), a.pause(str(tmp_path / "done"))])
    assert wait(a.pause(str(tmp_path / "hung"))) == [0, 1, "paused", "paused"]
    hangs.unlink()
    os.kill(troupe.recovery.seats["a"]["pid"], signal.SIGSTOP)
    assert wait(a.add(3)) == [0, 1, "paused", "paused", 3]
    reasons = [event.reason for event in troupe.heard.events]  # on a busy machine it may be given up once more: it costs nothing
    assert any(reason.startswith("it hung in pause for ") for reason in reasons), reasons
    assert any(", then it gave no sign of life for " in reason for reason in reasons), reasons
    assert hangs.exists()


def test_who_hangs_gives_no_account_and_holds_nobody_up(seat: Seat) -> None:
    troupe = seat(a={}, b={}, hang=3)
    troupe.recovery.wait([proxy.add(1) for proxy in troupe.proxies.values()])
    stopped = troupe.recovery.seats["a"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    accounts, clocks = troupe.recovery.accounts()
    assert time.monotonic() - began < 15
    assert accounts["b"].totals["add"].calls == 1
    assert accounts.keys() == clocks.keys() == {"b"}
    os.kill(stopped, signal.SIGKILL)
    assert troupe.recovery.accounts()[0].keys() == {"b"}, "nor does who is lost"


@pytest.mark.parametrize(
    ("begun", "busy", "seconds", "why"),
    [
        (False, None, 1e6, ""),
        (True, None, 49, ""),
        (True, None, 51, "it gave no sign of life for 51 s"),
        (True, ("build", 190, 0), 0, ""),
        (True, ("build", 201, 0), 0, "it hung in build for 201 s"),
    ],
)
def test_how_long_one_may_take_to_be_built(
    begun: bool, busy: Any, seconds: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a place may take for ever; who has one is to answer within 5 times `hang`, and to have its role within 20 times."""
    ended = []
    process: Any = SimpleNamespace(beats=lambda: [busy], has_begun=lambda: begun, kill_stuck=lambda: ended.append(process))
    parted = ([busy], []) if busy else ([], [busy])
    monkeypatch.setattr(signs_of_life, "ray", SimpleNamespace(wait=lambda *_, **__: parted, get=lambda beats: beats))
    monkeypatch.setattr(signs_of_life, "error_of", lambda beat: None)
    player = Player("a", Role, lambda: process, process)
    signs = SignsOfLife({"a": player}, RecoveryLimits(hang=10))
    for now in (0.0, seconds) if seconds else (0.0,):
        signs.listen_to(player, now)
    assert (player.why, len(ended)) == (why, bool(why))
    if not begun:  # what it waited for its place doesn't count once it has one
        process.has_begun = lambda: True
        signs.listen_to(player, seconds + 49)
        assert not ended


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Builds a role of two ranks, without Ray: "waits" comes once it is ended, and others at once. What was ended, and the player."""
    seat = Whereabouts(pid=1, host="h", node="here", node_id="b", devices=())
    ended: list[str] = []

    def group(first: str, second: str) -> Any:
        return SimpleNamespace(
            build=lambda: {"a/0": first, "a/1": second}, beat=lambda: "waits", kill=lambda: None,
            beats=lambda: ["waits"], has_begun=lambda: True, kill_stuck=lambda: ended.append(first),
        )  # fmt: skip

    def make(first: str, second: str, errors: dict[str, Exception], *, built: bool) -> tuple[list[str], Player, Damage]:
        looks = iter(range(100))

        def wait(refs: list[str], **_: Any) -> tuple[list[str], list[str]]:
            assert next(looks) < 99, "nobody ended the rank that waits"
            later = [ref for ref in refs if ref == "waits" and not ended]
            return [ref for ref in refs if ref not in later], later

        monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
        for module in (waiting, signs_of_life, building):
            monkeypatch.setattr(module, "ray", SimpleNamespace(wait=wait, get=lambda build: seat))
        for module in (signs_of_life, building):
            monkeypatch.setattr(module, "error_of", errors.get)
        ended.clear()
        player = Player("a", Role, lambda: group("there", "there"), group(first, second), built=built)
        signs, limits = SignsOfLife({"a": player}, RecoveryLimits()), RecoveryLimits()
        damage = Builder({"a": player}, Waiting({"a": player}, signs, Heard(), missing=lambda: ""), limits).build_all()
        return ended, player, damage

    return make


@pytest.mark.parametrize("built", [False, True])
def test_a_rank_that_is_gone_while_they_are_to_meet_is_not_waited_for(met: Callable[..., Any], built: bool) -> None:
    """The others, which would wait in vain, are ended with it: one loss, for its reason, also where the role was built before."""
    errors = {"waits": RayActorError(error_msg="killed"), "gone": RayActorError(error_msg="the node was low on memory")}
    ended, player, damage = met("waits", "gone", errors, built=built)
    assert (ended, damage.losses, len(player.losses)) == (["waits"], {"a": "its process was killed for want of memory"}, 1)
    assert (player.built, player.builds, player.why) == (True, [], "")


@pytest.mark.parametrize("others", [RayActorError(error_msg="killed"), RuntimeError("[gloo] Connection closed by peer")])
def test_a_rank_that_can_t_be_built_says_why_and_not_what_became_of_the_others(
    met: Callable[..., Any], others: Exception
) -> None:
    ours = DeviceMemoryError("generator ran out of GPU memory")
    with pytest.raises(DeviceMemoryError, match="ran out of GPU memory"):
        met("waits", "wrong", {"waits": others, "wrong": ours}, built=False)


def test_begun_anew_nothing_is_known_of_calls_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that failed before is another call's then: whoever waits for one behind it would be dismissed."""
    ours = Recovery(RecoveryLimits(), Heard(), missing=lambda: "")
    monkeypatch.setattr(Waiting, "until_there", lambda *_, **__: True)
    process: Any = SimpleNamespace(build=dict)
    ours.players["a"] = Player("a", Role, lambda: process, process, turns=5, under_way={4: "failed"})
    ours.renew()
    assert (ours.players["a"].turns, ours.players["a"].under_way) == (0, {})


def test_errors_are_one_line_but_a_bug_keeps_its_traceback(seat: Seat) -> None:
    troupe = seat(generator={"bug": ZeroDivisionError("a bug")})
    role, wait = troupe.proxies["generator"], troupe.recovery.wait
    with pytest.raises(ZeroDivisionError, match="a bug"):
        wait(role.fail("bug"))
    with pytest.raises(DeviceMemoryError) as raised:
        wait(role.no_room())
    assert str(raised.value).startswith(
        "generator ran out of GPU memory in no_room: CUDA out of memory. Tried to allocate 2.00 GiB. More.: "
    )
    assert "raise micro_batches" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lost_too_often_is_one_line() -> None:
    limits = RecoveryLimits(losses=1, within=60)
    process: Any = None
    player = Player("generator", Role, lambda: process, process)
    players = {"generator": player}
    builder = Builder(players, Waiting(players, SignsOfLife(players, limits), Heard(), missing=lambda: ""), limits)
    player.losses.append(time.monotonic() - 61)
    builder.count(player, "its machine is gone")
    with pytest.raises(ClusterError) as raised:
        builder.count(player, "its process died")
    advice = "run the same command again to go on from the last checkpoint"
    assert str(raised.value) == f"generator was lost 2 times within 60 s: its process died; {advice}"


def test_machines_that_are_to_go_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(recovery, "state", SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(draining, 0)))
    ours, draining = Recovery(RecoveryLimits(), Heard(), missing=lambda: ""), set[str]()
    ours.seats = {"teacher": {"node": "10.0.0.1", "node_id": "a"}, "generator": {"node": "10.0.0.2", "node_id": "b"}}
    assert ours.leaving() == []
    draining |= {"b", "elsewhere"}
    assert [ours.leaving(), ours.leaving()] == [["10.0.0.2 (generator)"], []]
    draining.remove("b")
    assert ours.leaving() == []
    draining.add("b")
    assert ours.leaving() == ["10.0.0.2 (generator)"], "it may be given back, and wanted once more"


def test_a_machine_that_doesn_t_see_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "where", lambda: "here")  # only Ray knows
    hosted = hosting.Hosted("a", 1)
    with pytest.raises(ClusterError, match=f"a runs on a machine that doesn't see {tmp_path}: set `storage`"):
        asyncio.run(hosted.build("a", Role, {}, Folder.at(tmp_path), "proof"))
    (tmp_path / "proof").touch()
    assert asyncio.run(hosted.build("a", Role, {}, Folder.at(tmp_path), "proof")) == "here"


def test_a_call_is_made_once_in_its_turn() -> None:
    hosted = hosting.Hosted("a", 1)
    hosted.role = Role()

    async def come_in_any_order() -> None:
        later = [asyncio.ensure_future(hosted.call(turn, "add", turn)) for turn in (2, 1)]
        assert (await hosted.call(0, "add", 0))[1] == [0, 0]
        assert [(await each)[1] for each in later] == [[0, 0, 1, 2], [0, 0, 1]]
        with pytest.raises(OutOfTurn):
            await hosted.call(0, "add", 1)
        with pytest.raises(KeyError):
            await hosted.call(3, "fail", "x")
        assert (await hosted.call(4, "look"))[1] == [0, 0, 1, 2], "one that fails by itself has had its turn"
        waits = asyncio.ensure_future(hosted.call(6, "add", 6))
        await asyncio.sleep(0)
        hosted.dismiss(5)
        with pytest.raises(OutOfTurn):
            await waits
        assert (await hosted.call(5, "add", 5))[1] == [0, 0, 1, 2, 5], "what was dismissed can be asked for again"

    asyncio.run(come_in_any_order())
