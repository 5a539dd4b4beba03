"""Algorithm 2, call by call."""

from itertools import islice
from typing import Any

import pytest

from disback_ray.algorithms.backtracking import distribution_backtracking
from disback_ray.algorithms.noise import Batch, micro_batches
from disback_ray.algorithms.path import Blend, switches

PLAN = switches(3, (2, 1), total=5)  # targets: node 2 twice, node 1 once, then the teacher


def batches_of(stage: str, step: int) -> list[Batch]:
    return micro_batches(Batch(0, stage, step, 0, 4), 2)


def play(notes: Any, *, plan: Any = PLAN, **options: Any) -> list[Any]:
    return list(distribution_backtracking(notes.cast, plan, steps=5, batches_of=batches_of, **options))


def targets(calls: list[Any]) -> list[str]:
    """Who was asked for the wanted score, and which node was loaded; in order."""
    names = {"teacher.score": "teacher", "path_node.score": "path node"}
    found = [f"load {call[1]}" if call[0] == "path_node.load" else names.get(call[0]) for call in calls]
    return [name for name in found if name]


def test_one_step_of_both_players(notes: Any) -> None:
    """Eq. (8) on the target's and s_φ's scores of one x_0; then, on that x_0 and not on a later generator's, Eq. (5)."""
    step = next(distribution_backtracking(notes.cast, PLAN, steps=5, batches_of=batches_of, fake_updates=2))
    x0 = [("generator.propose", batch) for batch in batches_of("backtracking", 0)]
    wanted = [("path_node.score", x) for x in x0]
    current = [("fake_score.score", x) for x in x0]
    fields = [("fake_score.difference", c, w, None, ("node", 2), ("blend", None)) for c, w in zip(current, wanted, strict=True)]
    changes = [
        ("path_node.load", 2),
        ("generator.descend_all", *fields, ("step", 0)), ("path_node.prefetch", 1),
        *(("fake_score.learn", *x0, ("step", 0), ("update", update)) for update in (0, 1)),
    ]  # fmt: skip
    by_part = [call for pair in zip(current, fields, strict=True) for call in pair]
    assert notes.calls == [changes[0], *x0, *wanted, *by_part, *changes[1:]]
    assert list(step.results) == changes, "waiting for a step meets every error of it"
    assert (step.stage, step.step, step.node) == ("backtracking", 0, 2)


def test_the_target_walks_back_to_the_teacher(notes: Any) -> None:
    steps = play(notes)
    twice = ["path node"] * 2  # two micro-batches
    assert targets(notes.calls) == ["load 2", *twice, *twice, "load 1", *twice, *["teacher"] * 4]
    assert [step.node for step in steps] == [2, 2, 1, 0, 0]
    assert [call[-2] for call in notes.calls if call[0] == "fake_score.difference"] == [
        ("node", n) for n in (2, 2, 2, 2, 1, 1, 0, 0, 0, 0)
    ]
    assert [call[-1] for call in notes.calls if call[0] == "generator.descend_all"] == [("step", n) for n in range(5)]


def test_a_target_is_blended_into_the_next(notes: Any) -> None:
    """Two nodes are held while one is blended into the other; then node 1 is asked beside the teacher. No load in between."""
    plan = switches(3, (2, 3), total=8)  # node 2 twice, node 1 from step 2, the teacher from step 5
    list(distribution_backtracking(notes.cast, plan, steps=8, batches_of=batches_of, blend=2))
    assert [call for call in notes.calls if call[0] == "path_node.load"] == [("path_node.load", 2), ("path_node.load", 1, 2)]
    scored, mixed = list[Any](), list[Any]()
    for call in notes.calls:
        if call[0].endswith(".score") and call[0] != "fake_score.score":
            scored.append((call[1][1].step, call[0].partition(".")[0], *call[2:]))
        if call[0] == "fake_score.difference":
            _, current, wanted, left, (_, node), (_, blend) = call
            assert wanted[1] == current[1], "of the same sample"
            assert left == (("path_node.score", current[1], ("node", blend.left)) if blend else None)
            mixed.append((current[1][1].step, wanted[0], node, blend))
    one = [(0, "path_node"), (1, "path_node")]
    two = [(step, "path_node", *rest) for step in (2, 3) for rest in ([], [("node", 2)])]
    last = [(5, "teacher"), (5, "path_node", ("node", 1)), (6, "teacher"), (6, "path_node", ("node", 1)), (7, "teacher")]
    expected = [*one, *two, (4, "path_node"), *last]
    assert scored == [each for each in expected for _ in range(2)], "of two micro-batches"
    shares = {2: Blend(2, 1 / 3), 3: Blend(2, 2 / 3), 5: Blend(1, 1 / 3), 6: Blend(1, 2 / 3)}
    targets = ["path_node"] * 5 + ["teacher"] * 3
    assert mixed[::2] == [
        (step, f"{targets[step]}.score", node, shares.get(step)) for step, node in enumerate((2, 2, 1, 1, 1, 0, 0, 0))
    ]


@pytest.mark.parametrize(("start", "loads"), [(3, [(1, 2)]), (4, [(1,)]), (6, [(1,)]), (7, [])])
def test_within_a_blend_it_goes_on_with_what_that_needs(notes: Any, start: int, loads: list[tuple[int, ...]]) -> None:
    plan = switches(3, (2, 3), total=8)
    list(distribution_backtracking(notes.cast, plan, steps=8, batches_of=batches_of, blend=2, start=start))
    assert [call[1:] for call in notes.calls if call[0] == "path_node.load"] == loads


def prefetches(notes: Any, plan: Any, *, start: int = 0, steps: int = 60) -> list[tuple[str, int, int]]:
    """What was read ahead and loaded: (method, node, the step that it came after)."""
    found, step = [], start - 1
    for _ in distribution_backtracking(notes.cast, plan, steps=steps, batches_of=batches_of, start=start):
        pass
    for call in notes.calls:
        if call[0] == "path_node.load":
            found.append(("load", call[1], step + 1))
        elif call[0] == "generator.descend_all":
            step = dict(call[-1:])["step"]
        elif call[0] == "path_node.prefetch":
            found.append(("prefetch", call[1], step))
    return found


def test_the_next_node_begins_to_be_read_ten_steps_before_its_switch_and_the_teacher_never(notes: Any) -> None:
    plan = switches(4, (25, 3, 20), total=60)  # nodes 3, 2, 1, then the teacher from step 48
    expected = [("load", 3, 0), ("prefetch", 2, 15), ("load", 2, 25), ("prefetch", 1, 25), ("load", 1, 28)]
    assert prefetches(notes, plan) == expected


def test_going_on_beside_a_switch_reads_ahead_at_once(notes: Any) -> None:
    plan = switches(4, (25, 3, 20), total=60)
    assert prefetches(notes, plan, start=24)[:3] == [("load", 3, 24), ("prefetch", 2, 24), ("load", 2, 25)]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (1, ["load 2", "path node", "path node", "load 1"]),
        (2, ["load 1", "path node", "path node", "teacher"]),
        (3, ["teacher"] * 4),
    ],
)
def test_it_goes_on_from_a_step_with_that_step_s_node(notes: Any, start: int, expected: list[str]) -> None:
    steps = play(notes, start=start)
    assert [step.step for step in steps] == list(range(start, 5))
    assert targets(notes.calls)[:4] == expected


@pytest.mark.parametrize("nodes", [0, 1])
def test_with_no_node_between_only_the_teacher_is_the_target(notes: Any, nodes: int) -> None:
    play(notes, plan=switches(nodes, 1, total=5))
    assert targets(notes.calls) == ["teacher"] * 10


def test_a_step_is_submitted_only_when_it_is_asked_for(notes: Any) -> None:
    steps = distribution_backtracking(notes.cast, PLAN, steps=5, batches_of=batches_of)
    assert notes.calls == []
    list(islice(steps, 2))
    assert [call[-1] for call in notes.calls if call[0] == "generator.descend_all"] == [("step", 0), ("step", 1)]


def learnt(calls: list[Any]) -> list[tuple[int, int]]:
    """(how many scores s_φ had given, which step's samples it then learnt), for each of its updates."""
    found, scores = [], 0
    for call in calls:
        scores += call[0] == "fake_score.score"
        if call[0] == "fake_score.learn":
            found.append((scores // 2, dict(call[-2:])["step"]))  # two micro-batches
    return found


def learnt_samples(calls: list[Any]) -> list[Any]:
    return [sample for call in calls if call[0] == "fake_score.learn" for sample in call[1:-2]]


def test_with_staleness_the_fits_trail_the_scores_and_catch_up_at_the_end(notes: Any) -> None:
    play(notes)
    assert learnt(notes.calls) == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    notes.calls.clear()
    play(notes, staleness=2)
    assert learnt(notes.calls) == [(3, 0), (4, 1), (5, 2), (5, 3), (5, 4)]
    assert learnt_samples(notes.calls) == [
        ("generator.propose", batch) for step in range(5) for batch in batches_of("backtracking", step)
    ]


def test_with_staleness_it_goes_on_with_what_the_checkpoint_s_fake_score_has_not_learnt(notes: Any) -> None:
    play(notes, staleness=2, start=3)
    kept = [("fake_score.unlearnt", batch) for step in (1, 2) for batch in batches_of("backtracking", step)]
    assert notes.calls[:4] == kept
    assert learnt(notes.calls) == [(1, 1), (2, 2), (2, 3), (2, 4)]
    assert learnt_samples(notes.calls)[:4] == kept
    notes.calls.clear()
    play(notes, staleness=2, start=5)
    assert notes.calls == [], "a stage that is over asks for nothing"
