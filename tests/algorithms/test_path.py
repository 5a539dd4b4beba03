"""When nodes are kept, and when the target moves: the paper's own numbers, and the plans that don't fit."""

from collections.abc import Sequence

import pytest

from disback_ray.algorithms.path import Switch, geometric_marks, node_marks, plateau_switches, switches, target_at
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
        (200, 60, None, "recording: the last node is kept after step 180, not at the end, 200"),
        (40, 50, None, "recording: the last node is kept after step 0, not at the end, 40"),
        (50, None, (5, 20), "recording: the last node is kept after step 20, not at the end, 50"),
        (0, None, (5,), "recording: the last node is kept after step 5, not at the end, 0"),
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
