"""A role's own thread: calls in their turns, each once, in whatever order they come."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from disback_ray.actors.turns import OutOfTurn, Turns

SECONDS = 20


def noting(made: list[Any], what: Any) -> Any:
    def work() -> Any:
        made.append(what)
        return what

    return work


def test_calls_are_made_in_their_turns_whatever_order_they_come_in() -> None:
    turns, made = Turns(), list[Any]()
    later = {turn: turns.make(turn, noting(made, turn)) for turn in (2, 3, 1)}
    assert made == [], "the first hasn't come"
    later[0] = turns.make(0, noting(made, 0))
    assert [later[turn].result(SECONDS) for turn in range(4)] == made == [0, 1, 2, 3]


def test_a_turn_is_taken_once() -> None:
    """What comes twice, and what comes too late, changes nothing."""
    turns, made = Turns(), list[Any]()
    turns.make(0, noting(made, 0)).result(SECONDS)
    waiting = turns.make(2, noting(made, 2))
    for turn in (0, 2):
        with pytest.raises(OutOfTurn):
            turns.make(turn, noting(made, "again")).result(SECONDS)
    turns.make(1, noting(made, 1)).result(SECONDS)
    waiting.result(SECONDS)
    assert made == [0, 1, 2]


def test_who_waits_for_a_call_that_was_not_made_fails_and_its_turn_can_be_taken_anew() -> None:
    turns, made = Turns(), list[Any]()
    behind = [turns.make(turn, noting(made, turn)) for turn in (1, 2)]
    turns.dismiss(after=0)
    for later in behind:
        with pytest.raises(OutOfTurn):
            later.result(SECONDS)
    assert [turns.make(turn, noting(made, turn)).result(SECONDS) for turn in (0, 1, 2)] == [0, 1, 2]


def test_an_error_is_its_caller_s_and_the_next_call_is_made() -> None:
    turns, made = Turns(), list[Any]()

    def fails() -> None:
        raise ValueError("mine")

    failed, following = turns.make(0, fails), turns.make(1, noting(made, 1))
    with pytest.raises(ValueError, match="mine"):
        failed.result(SECONDS)
    assert following.result(SECONDS) == 1


def test_what_has_no_turn_is_made_between_two_calls_and_a_new_role_counts_from_0() -> None:
    turns, made, begun, go = Turns(), list[Any](), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(SECONDS)
        made.append("slow")

    first: Future[Any] = turns.make(0, slow)
    assert begun.wait(SECONDS)
    between, second = turns.between(noting(made, "between")), turns.make(1, noting(made, 1))
    go.set()
    for later in (first, between, second):
        later.result(SECONDS)
    assert made == ["slow", "between", 1]
    turns.begin()
    assert turns.make(0, noting(made, "anew")).result(SECONDS) == "anew"
