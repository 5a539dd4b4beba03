"""s_φ by itself: what it learns, which samples it takes, and going on from its file."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from disback_ray.actors.frozen_score import SCORE_TAG
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.losses import score_difference
from disback_ray.algorithms.noise import KarrasNoise, add_noise
from disback_ray.algorithms.path import switches
from disback_ray.errors import CheckpointError, NonFiniteError, VersionError
from disback_ray.storage import digest
from disback_ray.teachers.path_nodes import load_node, save_node
from disback_ray.teachers.saved import load_denoiser


def opened(troupe: Any, stage: str = backtracking.STAGE) -> tuple[Any, Any]:
    """A cast whose s_φ has begun a stage at the teacher, and the sample of its first step."""
    cast = troupe.cast()
    cast.fake_score.begin(stage, node=0)
    return cast, cast.generator.propose(troupe.batches(stage, 0)[0])


def test_fit_is_equation_5(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    """∇_φ of the batch's mean of λ_D ‖D_φ(x_t, σ, c) - x_0‖², x_t fresh in each update, and the loss that is told."""
    troupe = by_class(troupe).but(fake_updates=2)
    cast, sample = opened(troupe)
    told = []
    for update in (0, 1):
        denoiser = load_denoiser(troupe.teacher)
        denoiser.load_state_dict(cast.fake_score.denoiser.state_dict())
        noisy = add_noise(sample.x0, sample.batch, law=KarrasNoise(0.05, 10.0, low=0.0, high=1.0), tag=f"fit/{update}")
        error = (denoiser(noisy.x_t, noisy.sigma, sample.condition) - sample.x0).square().mean(1)
        loss = ((1 / noisy.sigma**2 + 1 / 1.42**2) * error).mean()
        loss.backward()
        cast.fake_score.fit(sample, update=update)
        for ours, theirs in zip(cast.fake_score.denoiser.parameters(), denoiser.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
        told.append(cast.fake_score.commit(0, update=update))
        assert told[-1]["fake_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert told[0]["fake_loss"] != told[1]["fake_loss"]


def test_both_scores_of_equation_8_hear_the_class(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    cast, sample = opened(by_class(troupe))
    other = replace(sample, condition=sample.condition.flip(0))
    assert not torch.equal(other.condition, sample.condition)
    for role in (cast.fake_score, cast.teacher):
        assert not torch.equal(role.score(other).score, role.score(sample).score)


@pytest.mark.parametrize("weighting", ["dmd", "score_difference"])
def test_difference_is_equation_8_over_the_batch(troupe: Any, weighting: str) -> None:
    """Both scores at one x_t; the mean over the whole batch, however it is cut."""
    troupe = troupe.but(weighting=weighting, micro_batches=3)
    cast, sample = opened(troupe)
    cast.teacher.denoiser.model.leave.bias += 1  # or both scores are the same
    current, wanted = cast.fake_score.score(sample), cast.teacher.score(sample)
    noisy = add_noise(sample.x0, sample.batch, law=troupe.score_noise, tag=SCORE_TAG)
    whole = score_difference(
        current.score, wanted.score, noise=noisy.x_t - sample.x0, sigma=noisy.sigma, weighting=troupe.weighting
    )
    field = cast.fake_score.difference(sample, current, wanted, node=0)
    torch.testing.assert_close(field.gradient, whole / 12)
    assert field.norm == pytest.approx(float(whole.square().mean().sqrt()))
    assert field.norm > 0.1


def test_a_stage_begins_at_its_node(troupe: Any) -> None:
    cast, _ = opened(troupe)
    teacher = digest(load_denoiser(troupe.teacher).state_dict())
    assert cast.fake_score.digest() == teacher
    troupe.record(cast)
    cast.fake_score.begin(backtracking.STAGE, node=2)
    assert cast.fake_score.digest() == digest(load_node(troupe.path, 2)) != teacher
    assert not cast.fake_score.learner.optimiser.state_dict()["state"], "the optimiser remembers the stage before"
    cast.fake_score.begin(degradation.STAGE, node=0)
    assert cast.fake_score.digest() == teacher
    with pytest.raises(CheckpointError, match=r"can't read .*node-7.json"):
        cast.fake_score.begin(backtracking.STAGE, node=7)
    weights = load_node(troupe.path, 1)
    weights.popitem()
    save_node(troupe.path, 1, weights, step=1)
    with pytest.raises(CheckpointError, match="node 1: the weights don't fit"):
        cast.fake_score.begin(backtracking.STAGE, node=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": "recording"}, "fake_score is in stage 'backtracking', got a sample of 'recording'"),
        ({"stage": "dreaming"}, "got a sample of 'dreaming'"),
        ({"step": 1}, "a sample of step 1 came from version 0 of the generator"),
        ({"step": 1, "generator_version": 1}, "holds version 0 of its weights, asked for 1"),
        ({"generator_version": 1}, "a sample of step 0 came from version 1 of the generator"),
    ],
)
@pytest.mark.parametrize("method", ["score", "fit"])
def test_samples_of_another_step_or_generator_are_refused(troupe: Any, change: dict[str, Any], said: str, method: str) -> None:
    cast, sample = opened(troupe)
    batch = replace(sample.batch, **{key: value for key, value in change.items() if key != "generator_version"})
    other = replace(sample, batch=batch, generator_version=change.get("generator_version", 0))
    with pytest.raises(VersionError, match=said):
        getattr(cast.fake_score, method)(other)
    assert all(p.grad is None for p in cast.fake_score.denoiser.parameters())


def test_while_recording_every_sample_is_of_the_first_generator(troupe: Any) -> None:
    cast, sample = opened(troupe, degradation.STAGE)
    with pytest.raises(VersionError, match="a sample of step 0 came from version 1"):
        cast.fake_score.fit(replace(sample, generator_version=1))
    with pytest.raises(VersionError, match="asked for 2"):
        cast.fake_score.keep_node(1, step=2)
    assert troupe.path.names() == []


def test_only_scores_that_belong_together_are_subtracted(troupe: Any) -> None:
    cast, sample = opened(troupe)
    current, wanted = cast.fake_score.score(sample), cast.teacher.score(sample)
    difference = cast.fake_score.difference
    with pytest.raises(VersionError, match="wanted node 2, got 0"):
        difference(sample, current, wanted, node=2)
    with pytest.raises(VersionError, match="scores of other samples met"):
        difference(sample, current, replace(wanted, batch=replace(sample.batch, first=12)), node=0)
    with pytest.raises(VersionError, match="s_φ is at version 0, got 5"):
        difference(sample, replace(current, version=5), wanted, node=0)
    with pytest.raises(VersionError, match="wanted node 0, got None"):
        difference(sample, wanted, current, node=0)
    cast.fake_score.fit(sample)
    cast.fake_score.commit(0)
    with pytest.raises(VersionError, match="holds version 1 of its weights, asked for 0"):
        difference(sample, current, wanted, node=0)


def test_nothing_is_learnt_from_what_is_not_finite(troupe: Any) -> None:
    cast, sample = opened(troupe)
    before = cast.fake_score.digest()
    sample.x0[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="the fake score has NaN or Inf at step 0"):
        cast.fake_score.score(sample)
    with pytest.raises(NonFiniteError, match="the fake score's loss is nan at backtracking step 0"):
        cast.fake_score.fit(sample)
    assert cast.fake_score.digest() == before


def test_a_step_is_committed_once_and_whole(troupe: Any) -> None:
    troupe = troupe.but(micro_batches=2, fake_updates=2)
    cast, first = opened(troupe)
    second = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[1])
    cast.fake_score.fit(first)
    with pytest.raises(VersionError, match="version 0 has the gradients of 6 of 12 samples"):
        cast.fake_score.commit(0)
    cast.fake_score.fit(second)
    told, after = cast.fake_score.commit(0), cast.fake_score.digest()
    cast.fake_score.fit(first, update=1)  # asked again while the next update is under way
    assert cast.fake_score.commit(0) == told
    assert cast.fake_score.digest() == after
    with pytest.raises(VersionError, match="asked for 0"):
        cast.fake_score.fit(second, update=0)
    with pytest.raises(VersionError, match="asked for 2"):
        cast.fake_score.commit(1)
    cast.fake_score.fit(second, update=1)
    assert cast.fake_score.commit(0, update=1)["fake_loss"] > 0


@pytest.mark.parametrize("updates", [1, 2])
def test_going_on_from_its_file_is_going_straight_on(troupe: Any, updates: int) -> None:
    troupe = troupe.but(fake_updates=updates)
    plan, checkpoint = switches(0, 1, total=8), troupe.path / "checkpoint"
    straight, _ = opened(troupe)
    troupe.backtrack(straight, plan)

    left, _ = opened(troupe)
    troupe.backtrack(left, plan, upto=3)
    proofs = [role.save(checkpoint)["sha256"] for role in (left.fake_score, left.generator)]
    again = troupe.cast()
    again.fake_score.load(checkpoint, stage=backtracking.STAGE, sha256=proofs[0])
    again.generator.load(checkpoint, sha256=proofs[1])
    assert again.fake_score.commit(2, update=updates - 1) == again.generator.commit(2) == {}, "that step has been made"
    troupe.backtrack(again, plan, start=3)
    assert again.fake_score.digest() == straight.fake_score.digest()
    assert again.generator.digest() == straight.generator.digest()


def test_a_file_that_is_not_its_own_is_refused(troupe: Any) -> None:
    cast, _ = opened(troupe)
    proof = cast.fake_score.save(troupe.path)
    with pytest.raises(CheckpointError, match="is not what was written"):
        cast.fake_score.load(troupe.path, stage=backtracking.STAGE, sha256="0" * 64)
    proof = troupe.path.write_tensors("fake_score.safetensors", {"weights.other": torch.ones(1), "version": torch.tensor(1)})
    with pytest.raises(CheckpointError, match=r"fake_score.safetensors doesn't fit") as refused:
        cast.fake_score.load(troupe.path, stage=backtracking.STAGE, sha256=proof["sha256"])
    assert "\n" not in str(refused.value)


def test_its_field_for_figure_9(troupe: Any) -> None:
    cast, _ = opened(troupe)
    points = torch.tensor([[0.0, 0.5], [2.0, 0.0]])
    torch.testing.assert_close(cast.fake_score.field(points, sigma=0.5), cast.teacher.field(points, sigma=0.5))
