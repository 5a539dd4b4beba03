"""Algorithm 1, call by call."""

from itertools import islice
from typing import Any

from disback_ray.algorithms.degradation import degradation_recording
from disback_ray.algorithms.noise import Batch, micro_batches


def batches_of(stage: str, step: int) -> list[Batch]:
    return micro_batches(Batch(0, stage, step, 0, 4), 2)


def step_of_equation_7(step: int) -> list[tuple[Any, ...]]:
    """z → x_0 = G⁰(z) → θ' learns it; for each micro-batch, and one update for all of them."""
    first, second = (("generator.propose", batch) for batch in batches_of("recording", step))
    return [first, ("fake_score.fit", first), second, ("fake_score.fit", second), ("fake_score.commit", step)]


def keep(node: int, *, after: int) -> tuple[Any, ...]:
    return "fake_score.keep_node", node, ("step", after)


def test_node_i_is_kept_after_mark_i(notes: Any) -> None:
    steps = list(degradation_recording(notes.cast, (1, 3), batches_of=batches_of))
    assert notes.calls == [
        *step_of_equation_7(0), keep(1, after=1),
        *step_of_equation_7(1),
        *step_of_equation_7(2), keep(2, after=3),
    ]  # fmt: skip
    assert [(step.stage, step.step, step.node) for step in steps] == [
        ("recording", 0, 1),
        ("recording", 1, 1),
        ("recording", 2, 2),
    ]


def test_the_generator_is_frozen_and_no_target_plays(notes: Any) -> None:
    list(degradation_recording(notes.cast, (2, 5), batches_of=batches_of))
    called = {call[0] for call in notes.calls}
    assert called == {"generator.propose", "fake_score.fit", "fake_score.commit", "fake_score.keep_node"}


def test_each_result_that_can_fail_is_handed_on(notes: Any) -> None:
    (step,) = degradation_recording(notes.cast, (1,), batches_of=batches_of)
    changes = [call for call in notes.calls if call[0] != "generator.propose"]
    assert list(step.results) == changes


def test_a_step_is_submitted_only_when_it_is_asked_for(notes: Any) -> None:
    steps = degradation_recording(notes.cast, (5,), batches_of=batches_of)
    assert notes.calls == []
    list(islice(steps, 2))
    assert notes.calls == step_of_equation_7(0) + step_of_equation_7(1)


def test_it_goes_on_from_a_step(notes: Any) -> None:
    list(degradation_recording(notes.cast, (1, 3), batches_of=batches_of, start=2))
    assert notes.calls == [*step_of_equation_7(2), keep(2, after=3)]


def test_without_a_path_nothing_is_recorded(notes: Any) -> None:
    assert list(degradation_recording(notes.cast, (), batches_of=batches_of)) == []
    assert notes.calls == []
