"""What is to be made again after a loss: with it, and nothing else, every result is what it would have been."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disback_ray.actors.calls import Call, forget_before, looks, nature_of, starts, to_be_made_again
from disback_ray.actors.evaluator import Evaluator
from disback_ray.actors.fake_score import FakeScore
from disback_ray.actors.frozen_score import FrozenTeacher, PathNode
from disback_ray.actors.generator import Generator

ROLES = ("a", "b", "teacher")  # the last one only looks


class Stage:
    """Roles whose state is all that they have seen, so that no call can be left out or made twice unnoticed."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = dict.fromkeys(ROLES, ())

    def make(self, call: Call, result_of: Callable[[Call], Any]) -> Any:
        given = tuple(result_of(arg) for arg in call.args)
        seen = (call.index, *given)
        if call.nature == "starts":
            self.state[call.role] = (seen,)
        elif call.nature == "changes":
            self.state[call.role] = (*self.state[call.role], seen)
        return hash((self.state[call.role], seen))


@st.composite
def plays(draw: Any) -> list[Call]:
    calls: list[Call] = []
    for index in range(draw(st.integers(1, 25))):
        role = draw(st.sampled_from(ROLES))
        nature = "looks" if role == "teacher" else draw(st.sampled_from(["changes", "changes", "looks", "starts"]))
        args = draw(st.lists(st.sampled_from(calls), max_size=2)) if calls else []
        calls.append(Call(role, "method", nature, tuple(args), {}, index))
    return calls


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plays(), st.data())
def test_whatever_is_lost_all_ends_as_if_nothing_had_been(calls: list[Call], data: Any) -> None:
    whole, truth = Stage(), dict[Call, Any]()
    for call in calls:
        truth[call] = whole.make(call, truth.__getitem__)

    # Some processes are lost, each after so many of its calls; a call that waits for what was lost is not made, nor any after it.
    gone = data.draw(st.sets(st.sampled_from(ROLES)))
    dies_at = {role: data.draw(st.integers(0, len(calls))) for role in sorted(gone)}
    stage, results, stopped = Stage(), dict[Call, Any](), set[str]()
    for call in calls:
        if call.index >= dies_at.get(call.role, len(calls)) or any(arg not in results for arg in call.args):
            stopped.add(call.role)
        if call.role not in stopped:
            results[call] = stage.make(call, results.__getitem__)
            call.good = True
    for call in data.draw(st.sets(st.sampled_from(calls))) & results.keys():  # a machine is gone, with what it held
        call.missing = True
    wanted = {call for call in calls if not call.good or (call.missing and data.draw(st.booleans()))}

    logs = {role: [call for call in calls if call.role == role] for role in ROLES}
    again, anew = to_be_made_again(logs, gone=gone, failed=wanted)
    assert again == sorted(again, key=lambda call: call.index)
    assert anew >= gone
    stage.state |= dict.fromkeys(anew, ())
    for call in again:
        assert all(arg in again or not arg.missing for arg in call.args), "what it needs is there"
        results[call] = stage.make(call, results.__getitem__)
        assert results[call] == truth[call]
    assert stage.state == whole.state
    assert results.keys() == truth.keys()
    for role in set(ROLES) - anew:  # who is whole does nothing twice
        assert not any(call.good and not call.missing for call in again if call.role == role)


def test_nothing_is_made_again_needlessly() -> None:
    """A role that is gone: from its last start on what changed it, and of what only looked what failed."""
    natures = ["changes", "starts", "looks", "changes", "looks", "looks"]
    log = [Call("a", "m", nature, (), {}, index, good=index < 5) for index, nature in enumerate(natures)]
    again, anew = to_be_made_again({"a": log}, gone={"a"}, failed={log[5]})
    assert (again, anew) == ([log[1], log[3], log[5]], {"a"})
    again, anew = to_be_made_again({"a": log}, gone=(), failed={log[5]})
    assert (again, anew) == ([log[5]], set())


def test_a_log_forgets_all_but_the_last_start() -> None:
    log = [
        Call("a", "m", nature, (), {}, index) for index, nature in enumerate(["starts", "changes", "starts", "looks", "changes"])
    ]
    assert forget_before(log, 4) == [log[2], log[4]]
    assert forget_before(log, 2) == [log[0], *log[2:]]


def test_what_is_not_marked_is_taken_to_change_its_role() -> None:
    class Role:
        @looks
        def look(self) -> int:
            return 1

        @starts
        def start(self) -> None: ...

        def other(self) -> None: ...

    assert [nature_of(Role, name) for name in ("look", "start", "other", "missing")] == ["looks", "starts", "changes", "changes"]
    assert Role().look() == 1


@pytest.mark.parametrize(
    ("role", "changing"),
    [
        (FakeScore, {"score", "difference", "fit", "commit", "learn", "skip"}),
        (Generator, {"propose", "descend", "descend_all", "commit", "skip"}),
        (FrozenTeacher, set()),
        (PathNode, set()),
        (Evaluator, set()),
    ],
)
def test_who_is_changed_by_what(role: type, changing: set[str]) -> None:
    """A role that only looks can be asked again at any time, so a mark too few costs time, and one too many costs weights."""
    methods = {name for name in dir(role) if not name.startswith("_") and callable(getattr(role, name))}
    assert {name for name in methods if nature_of(role, name) == "changes"} == changing
    assert {name for name in methods if nature_of(role, name) == "starts"} <= {"begin", "load", "rewind"}
