"""Waiting for calls, without Ray: what is said meanwhile, who is dismissed, and when it ends before all is there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from disback_ray.actors import waiting
from disback_ray.actors.players import Player, Recovered
from disback_ray.actors.signs_of_life import SignsOfLife
from disback_ray.actors.waiting import Waiting
from disback_ray.config import RecoveryLimits


@dataclass
class Heard:
    """stops: whether somebody asks for a stop, look by look."""

    stops: Iterator[bool]
    said: list[str] = field(default_factory=list)

    def recovered(self, event: Recovered) -> None:
        raise AssertionError(event)

    def say(self, text: str) -> None:
        self.said.append(text)

    def gives_up(self) -> bool:
        return next(self.stops)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's answers: what is called "later" is there at the fourth look, and "wrong" is an error."""
    looks = iter((False, False, False, True))

    def wait(refs: list[str], **_: Any) -> tuple[list[str], list[str]]:
        there = [ref for ref in refs if ref != "later" or next(looks)]
        return there, [ref for ref in refs if ref not in there]

    def get(refs: list[str]) -> None:
        if "wrong" in refs:
            raise RayError("lost")

    def parted(refs: Sequence[str]) -> tuple[list[str], list[str]]:
        return [ref for ref in refs if ref != "wrong"], [ref for ref in refs if ref == "wrong"]

    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "ray", SimpleNamespace(wait=wait, get=get))
    monkeypatch.setattr(waiting, "parted", parted)


def waiting_for(players: dict[str, Player], heard: Heard, *, missing: str) -> Waiting:
    return Waiting(players, SignsOfLife({}, RecoveryLimits()), heard, missing=lambda: missing)


@pytest.mark.usefixtures("pretended")
def test_a_missing_place_is_told_once_and_who_asks_for_a_stop_needn_t_wait_for_it() -> None:
    heard = Heard(iter((False, False, True)))
    with pytest.raises(KeyboardInterrupt):
        waiting_for({}, heard, missing="no GPU is free").until_there(["later"])
    assert heard.said == ["waiting: no GPU is free; the run goes on as soon as that is there"]


@pytest.mark.usefixtures("pretended")
def test_while_nothing_is_missing_a_stop_waits_for_what_is_under_way() -> None:
    heard = Heard(iter(()))
    assert waiting_for({}, heard, missing="").until_there(["later", "there"])
    assert not heard.said


@pytest.mark.usefixtures("pretended")
def test_those_behind_a_call_that_failed_are_dismissed_and_what_was_made_is_crossed_off() -> None:
    dismissed: list[int] = []
    process: Any = SimpleNamespace(dismiss=dismissed.append)
    player = Player("a", object, lambda: process, process, under_way={2: "there", 3: "wrong"})
    ours = waiting_for({"a": player}, Heard(iter(())), missing="")
    assert not ours.until_there(["later"], unless_failed=True)
    assert (dismissed, player.under_way) == ([], {3: "wrong"}), "whoever asked is to mend it"
    assert ours.until_there(["later"])
    assert set(dismissed) == {3}
