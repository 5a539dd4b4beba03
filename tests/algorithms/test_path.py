"""When nodes are kept, and when the target moves: the paper's own numbers, and the plans that don't fit."""

import math
from collections.abc import Sequence

import pytest

from disback_ray.algorithms.path import (
    Blend,
    Switch,
    blend_at,
    comes_nearer,
    geometric_marks,
    leads_somewhere,
    node_marks,
    plateau_switches,
    switches,
    target_at,
)
from disback_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("steps", "every", "at", "marks"),
    [
        pytest.param(200, 50, None, (50, 100, 150, 200), id="App. A: 5 nodes with the teacher, one each 50 steps"),
        pytest.param(1000, 100, None, tuple(range(100, 1001, 100)), id="SDXL: 10 beyond the teacher"),
        pytest.param(50, None, (5, 10, 20, 50), (5, 10, 20, 50), id="named"),
        pytest.param(200, None, None, (200,), id="one node, the end"),
        pytest.param(0, None, None, (), id="no path"),
        pytest.param(0, 50, None, (), id="no path, whatever `every`"),
    ],
)
def test_marks(steps: int, every: int | None, at: Sequence[int] | None, marks: tuple[int, ...]) -> None:
    assert node_marks(steps, every=every, at=at) == marks


@pytest.mark.parametrize(
    ("steps", "every", "at", "said"),
    [
        (
            200,
            60,
            None,
            "recording: the last node is kept after step 180, not at the end, 200: change recording.every or recording.steps",
        ),
        (40, 50, None, "recording: the last node is kept after step 0, not at the end, 40"),
        (
            50,
            None,
            (5, 20),
            "recording: the last node is kept after step 20, not at the end, 50: change recording.at or recording.steps",
        ),
        (0, None, (5,), "recording: the last node is kept after step 5, not at the end, 0"),
        (1 << 200, 50, None, "recording.every: a node every 50 of 1606938.* steps: more than 10,000 nodes"),
        (50, None, (20, 5, 50), r"recording.at: \[20, 5, 50\] must rise"),
        (50, None, (5, 5, 50), r"recording.at: \[5, 5, 50\] must rise"),
        (50, None, (0, 50), r"recording.at: \[0, 50\] must rise from at least 1"),
    ],
)
def test_marks_that_do_not_fit(steps: int, every: int | None, at: Sequence[int] | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        node_marks(steps, every=every, at=at)


@pytest.mark.parametrize(
    ("nodes", "steps_per_node", "plan"),
    [
        pytest.param(
            4, 1000, [(0, 3), (1000, 2), (2000, 1), (3000, 0)], id="the paper's 200/50: targets 3, 2, 1, and the teacher"
        ),
        pytest.param(4, (1000, 1000, 10_000), [(0, 3), (1000, 2), (2000, 1), (12_000, 0)], id="its two groups"),
        pytest.param(2, 7, [(0, 1), (7, 0)], id="N = 2"),
        pytest.param(1, 1000, [(0, 0)], id="N = 1: s_φ starts at node 1, the first target is the teacher"),
        pytest.param(0, 1000, [(0, 0)], id="N = 0: Diff-Instruct"),
        pytest.param(0, (), [(0, 0)], id="N = 0, no numbers"),
    ],
)
def test_targets(nodes: int, steps_per_node: int | Sequence[int], plan: list[tuple[int, int]]) -> None:
    found = switches(nodes, steps_per_node, total=500_000)
    assert found == tuple(Switch(step, node) for step, node in plan)
    ends = [step for step, _ in plan[1:]] + [500_000]
    for (begin, node), end in zip(plan, ends, strict=True):
        assert target_at(begin, found) == target_at(end - 1, found) == node


@pytest.mark.parametrize(
    ("nodes", "steps_per_node", "total", "said"),
    [
        (4, (1000, 1000), 9999, "backtracking.steps_per_node: 2 numbers for 3 nodes"),
        (0, (1000,), 9999, "backtracking.steps_per_node: 1 numbers for 0 nodes"),
        (4, 1000, 3000, "backtracking.steps: 3000 leave none for the teacher after 3000 on 3 nodes"),
        (0, 1000, 0, "backtracking.steps: 0 leave none"),
    ],
)
def test_targets_that_do_not_fit(nodes: int, steps_per_node: int | Sequence[int], total: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        switches(nodes, steps_per_node, total=total)
    if total > 1:
        switches(4, 1000, total=3001)  # one step for the teacher is enough


def test_a_blend_rises_evenly_from_the_target_before_to_the_next() -> None:
    plan = switches(3, (6, 4), total=20)  # node 2, node 1 from step 6, the teacher from step 10
    found = [blend_at(step, plan, steps=3) for step in range(20)]
    assert found[:6] == [None] * 6, "the first target has none before it"
    assert found[6:10] == [Blend(2, 0.25), Blend(2, 0.5), Blend(2, 0.75), None]
    assert found[10:] == [Blend(1, 0.25), Blend(1, 0.5), Blend(1, 0.75), *[None] * 7]
    assert [blend_at(step, plan, steps=0) for step in range(20)] == [None] * 20


@pytest.mark.parametrize(
    ("nodes", "steps_per_node", "total", "said"),
    [
        (3, (9, 4), 99, "backtracking.blend: 5 steps into node 1, which is the target for 4: lower blend"),
        (4, 4, 99, "backtracking.blend: 5 steps into node 2, which is the target for 4: lower blend"),
        (3, 9, 22, "backtracking.blend: 5 steps into the teacher, which is the target for 4: lower blend"),
    ],
)
def test_a_blend_longer_than_its_target(nodes: int, steps_per_node: int | Sequence[int], total: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        switches(nodes, steps_per_node, total=total, blend=5)
    switches(nodes, steps_per_node, total=total, blend=4)


@pytest.mark.parametrize(("nodes", "steps_per_node"), [(2, 1), (3, (1, 5)), (1, 1), (0, 1)])
def test_nothing_is_blended_into_the_first_target(nodes: int, steps_per_node: int | Sequence[int]) -> None:
    switches(nodes, steps_per_node, total=11, blend=5)


@pytest.mark.parametrize(
    ("steps", "marks"), [(50, (6, 12, 25, 50)), (200, (25, 50, 100, 200)), (3, (1, 2, 3)), (1, (1,)), (0, ())]
)
def test_geometric_marks_halve(steps: int, marks: tuple[int, ...]) -> None:
    assert geometric_marks(steps) == marks


def test_a_node_is_left_when_the_difference_falls_no_more() -> None:
    falling = [(5, 8.0), (10, 6.0), (15, 4.0)]
    assert plateau_switches(falling, nodes=3, most=100, lag=2) == (Switch(0, 2),)
    flat = [*falling, (20, 3.9), (25, 3.7)]  # 3.7 is a tenth below neither 3.9 nor 4.0
    assert plateau_switches(flat, nodes=3, most=100, lag=2) == (Switch(0, 2), Switch(27, 1))
    later = [*flat, (27, 1.0), (30, 1.0), (35, 1.0), (40, 1.0), (45, 0.1)]  # the look at step 27 is of the node before
    assert plateau_switches(later, nodes=3, most=100, lag=2)[2:] == (Switch(42, 0),)


def test_a_node_is_left_after_so_many_steps_at_the_latest() -> None:
    looks = [(done, 2.0**-done) for done in range(5, 60, 5)]
    assert plateau_switches(looks, nodes=3, most=20, lag=2) == (Switch(0, 2), Switch(22, 1), Switch(47, 0))
    assert plateau_switches(looks, nodes=1, most=20, lag=2) == (Switch(0, 0),)


def test_looks_while_the_target_is_blended_do_not_count() -> None:
    """From node 2's switch at step 17 on, ten steps: the looks at 20 and 25 are passed over, and three more are needed."""
    looks = [(done, 1.0) for done in range(5, 60, 5)]
    assert plateau_switches(looks, nodes=4, most=100, lag=2)[:3] == (Switch(0, 3), Switch(17, 2), Switch(32, 1))
    assert plateau_switches(looks, nodes=4, most=100, lag=2, blend=10)[:3] == (Switch(0, 3), Switch(17, 2), Switch(42, 1))
    assert plateau_switches(looks, nodes=4, most=10, lag=2, blend=10)[:3] == (Switch(0, 3), Switch(12, 2), Switch(27, 1))


@pytest.mark.parametrize(
    ("apart", "ended", "goes_on"),
    [
        ([2.0, 1.98], False, True),
        ([2.0, 1.99], False, False),
        ([2.0, 1.8, 1.74], False, True),
        ([2.0, 1.8, 1.76], False, False),
        ([2.0, 1.5, 1.4], True, True),
        ([2.0, 1.5, 1.41], True, False),
        ([2.0, 1.3, 1.35], True, True),
        ([2.0, 1.3, 1.35], False, True),
        ([2.0, 1.3, 1.45], True, False),
        ([2.0, math.nan], False, False),
    ],
)
def test_each_look_at_a_trial_has_to_be_nearer_until_one_is_much_nearer(apart: list[float], ended: bool, goes_on: bool) -> None:
    assert leads_somewhere(apart, gain=0.7, ended=ended) is goes_on


@pytest.mark.parametrize(
    ("apart", "goes_on"),
    [([2.0, 1.98], True), ([2.0, 1.985], False), ([2.0, 1.9, 1.95], True), ([2.0, 1.9, 1.97], False), ([2.0, math.nan], False)],
)
def test_without_a_goal_it_is_a_percent_at_each_look(apart: list[float], goes_on: bool) -> None:
    assert comes_nearer(apart) is goes_on
