"""s_φ by itself: what it learns, which samples it takes, and going on from its file."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from disback_ray.actors import mishaps
from disback_ray.actors.frozen_score import SCORE_TAG
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.losses import denoising_loss, score_difference, score_of
from disback_ray.algorithms.noise import KarrasNoise, add_noise
from disback_ray.algorithms.path import Blend, switches
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
    assert not torch.equal(cast.teacher.score(other).score, cast.teacher.score(sample).score)
    taken = []
    for each in (sample, other):
        cast.fake_score.score(each)
        taken.append(cast.fake_score.taken[sample.batch].score)
    assert not torch.equal(*taken)


@pytest.mark.parametrize("weighting", ["dmd", "score_difference"])
def test_difference_is_equation_8_over_the_batch(troupe: Any, weighting: str) -> None:
    """Both scores at one x_t; the mean over the whole batch, however it is cut."""
    troupe = troupe.but(weighting=weighting, micro_batches=3)
    cast, sample = opened(troupe)
    cast.teacher.denoiser.model.leave.bias += 1  # or both scores are the same
    current, wanted = cast.fake_score.score(sample), cast.teacher.score(sample)
    noisy = add_noise(sample.x0, sample.batch, law=troupe.score_noise, tag=SCORE_TAG)
    ours = score_of(cast.fake_score.denoiser, noisy.x_t, noisy.sigma, condition=None).detach()
    whole = score_difference(ours, wanted.score, noise=noisy.x_t - sample.x0, sigma=noisy.sigma, weighting=troupe.weighting)
    field = cast.fake_score.difference(current, wanted, node=0)
    torch.testing.assert_close(field.gradient, whole / 12)
    assert field.norm == pytest.approx(float(whole.square().mean().sqrt()))
    assert field.norm > 0.1


def test_difference_to_a_blended_target(troupe: Any) -> None:
    """Eq. (8) with (1 - a) s_n + a s_{n-1} in float64 by hand; a blend without its other score, or with another's, is refused."""
    cast, sample = opened(troupe)
    noisy = add_noise(sample.x0, sample.batch, law=troupe.score_noise, tag=SCORE_TAG)
    current, wanted = cast.fake_score.score(sample), cast.teacher.score(sample)
    wanted, left = replace(wanted, score=wanted.score + 1), replace(wanted, score=wanted.score * 2, node=1)
    blend = Blend(1, 0.25)
    other = replace(left, batch=replace(sample.batch, step=3))
    for scores, mix in (((wanted,), blend), ((wanted, left), None), ((wanted, wanted), blend), ((wanted, other), blend)):
        with pytest.raises(VersionError):
            cast.fake_score.difference(current, *scores, node=0, blend=mix)
    field = cast.fake_score.difference(current, wanted, left, node=0, blend=blend)
    ours = score_of(cast.fake_score.denoiser, noisy.x_t, noisy.sigma, condition=None).detach().double()
    target = 0.75 * left.score.double() + 0.25 * wanted.score.double()
    noise, sigma = (noisy.x_t - sample.x0).double(), noisy.sigma.double()
    whole = score_difference(ours, target, noise=noise, sigma=sigma, weighting=troupe.weighting)
    torch.testing.assert_close(field.gradient.double(), whole / 12, rtol=1e-4, atol=1e-6)


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
    other = replace(sample.batch, first=12)
    with pytest.raises(VersionError, match="wanted node 2, got 0"):
        difference(current, wanted, node=2)
    with pytest.raises(VersionError, match="scores of other samples met"):
        difference(current, replace(wanted, batch=other), node=0)
    with pytest.raises(VersionError, match="no score was taken"):
        difference(replace(current, batch=other), replace(wanted, batch=other), node=0)
    with pytest.raises(VersionError, match="s_φ was taken at version 0, got 5"):
        difference(replace(current, version=5), wanted, node=0)
    difference(current, wanted, node=0)
    with pytest.raises(VersionError, match="no score was taken"):
        difference(current, wanted, node=0)
    cast.fake_score.score(sample)
    cast.fake_score.fit(sample)
    cast.fake_score.commit(0)
    with pytest.raises(VersionError, match="holds version 1 of its weights, asked for 0"):
        difference(current, wanted, node=0)


def test_nothing_is_learnt_from_what_is_not_finite(troupe: Any) -> None:
    cast, sample = opened(troupe)
    before = cast.fake_score.digest()
    sample.x0[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="the fake score has NaN or Inf at step 0"):
        cast.fake_score.score(sample)
    with pytest.raises(NonFiniteError, match="the fake score's loss is nan at backtracking step 0"):
        cast.fake_score.fit(sample)
    assert cast.fake_score.digest() == before


@pytest.mark.parametrize("updates", [1, 2])
def test_learning_is_a_fit_of_each_sample_and_the_commit(troupe: Any, updates: int) -> None:
    troupe = troupe.but(micro_batches=2, fake_updates=updates)
    ends, told = [], []
    for together in (True, False):
        cast, first = opened(troupe)
        samples = [first, cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[1])]
        for update in range(updates):
            if together:
                told.append(cast.fake_score.learn(*samples, step=0, update=update))
                continue
            for sample in samples:
                cast.fake_score.fit(sample, update=update)
            told.append(cast.fake_score.commit(0, update=update))
        ends.append(cast.fake_score.digest())
    assert ends[0] == ends[1]
    assert told[:updates] == told[updates:]


def test_nan_among_several_samples_brings_the_keys_of_its_own(troupe: Any) -> None:
    troupe = troupe.but(micro_batches=2)
    cast, first = opened(troupe)
    second = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[1])
    bad = replace(second, x0=second.x0 * torch.nan)
    with pytest.raises(NonFiniteError, match="loss is nan") as raised, mishaps.told("fake_score", "learn", [first, bad]):
        cast.fake_score.learn(first, bad, step=0)
    where = {"seed": 6, "stage": "backtracking", "step": 0, "first": 6, "size": 6}
    assert raised.value.keys == {"role": "fake_score", "method": "fit", **where}


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


@pytest.mark.parametrize(("updates", "staleness"), [(1, 0), (2, 0), (2, 2)])
def test_going_on_from_its_file_is_going_straight_on(
    troupe: Any, by_class: Callable[[Any], Any], updates: int, staleness: int
) -> None:
    troupe = by_class(troupe).but(fake_updates=updates, staleness=staleness, micro_batches=2)
    plan, checkpoint = switches(0, 1, total=8), troupe.path / "checkpoint"
    straight, _ = opened(troupe)
    troupe.backtrack(straight, plan)

    left, _ = opened(troupe)
    stage = troupe.play(left, plan)
    for _ in range(3):  # not `upto`: the last step of all learns all that is left
        next(stage)
    proofs = [role.write(role.snapshot(), checkpoint)["sha256"] for role in (left.fake_score, left.generator)]
    again = troupe.cast()
    again.fake_score.load(checkpoint, stage=backtracking.STAGE, sha256=proofs[0])
    again.generator.load(checkpoint, sha256=proofs[1])
    made = again.fake_score.commit(2 - staleness, update=updates - 1)
    assert made == again.generator.commit(2) == {}, "that step has been made"
    troupe.backtrack(again, plan, start=3)
    assert again.fake_score.digest() == straight.fake_score.digest()
    assert again.generator.digest() == straight.generator.digest()


def test_a_file_that_is_not_its_own_is_refused(troupe: Any) -> None:
    cast, _ = opened(troupe)
    cast.fake_score.write(cast.fake_score.snapshot(), troupe.path)
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


# -- one forward pass for both --


def test_a_fused_fit_learns_at_the_very_x_t_of_the_score(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    """The authors' pseudo-code, written out: one D_φ(x_t, t) gives the score for Eq. (8) and the loss of Eq. (5)."""
    troupe = by_class(troupe).but(fused=True, micro_batches=3, fake_updates=2)
    cast, _ = opened(troupe)
    reference = load_denoiser(troupe.teacher)
    optimiser = troupe.optimiser.build(reference.parameters())
    samples = [cast.generator.propose(batch) for batch in troupe.batches(backtracking.STAGE, 0)]
    forwards, told, loss = [], [], 0.0
    reference.register_forward_hook(lambda *_: forwards.append("reference"))
    cast.fake_score.denoiser.register_forward_hook(lambda *_: forwards.append("ours"))
    for sample in samples:
        x_t = add_noise(sample.x0, sample.batch, law=troupe.score_noise, tag=SCORE_TAG)
        denoised = reference(x_t.x_t, x_t.sigma, sample.condition)
        losses = denoising_loss(denoised, sample.x0, x_t.sigma, sigma_data=1.42)
        (losses.sum() / 12).backward()
        loss += float(losses.detach().sum()) / 12
        wanted = cast.teacher.score(sample)
        field = cast.fake_score.difference(cast.fake_score.score(sample), wanted, node=0)
        theirs = score_difference(
            (denoised.detach() - x_t.x_t) / x_t.sigma[:, None] ** 2, wanted.score,
            noise=x_t.x_t - sample.x0, sigma=x_t.sigma, weighting=troupe.weighting,
        )  # fmt: skip
        torch.testing.assert_close(field.gradient, theirs / 12)
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 10.0)
    optimiser.step()
    for sample in samples:
        cast.fake_score.fit(sample)
    told.append(cast.fake_score.commit(0)["fake_loss"])
    assert forwards.count("ours") == forwards.count("reference") == 3, "one pass for both"
    assert told[0] == pytest.approx(loss, rel=1e-6)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(cast.fake_score.denoiser.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)
    cast.fake_score.fit(samples[0], update=1)
    assert forwards.count("ours") == 4, "a second update has fresh t and ε"
    with pytest.raises(VersionError, match="holds version 1"):
        cast.fake_score.fit(samples[0])


def test_nothing_fused_is_fitted_without_its_score(troupe: Any) -> None:
    cast, sample = opened(troupe.but(fused=True))
    with pytest.raises(VersionError, match="a fused fit is asked for, and no score was taken"):
        cast.fake_score.fit(sample)


# -- staleness --


def test_a_score_is_of_the_weights_that_so_many_steps_ago_began_with_and_of_no_others(troupe: Any) -> None:
    """Enforced call by call, by version."""
    cast, first = opened(troupe.but(staleness=1))
    score, fit, commit = cast.fake_score.score, cast.fake_score.fit, cast.fake_score.commit
    later = [replace(first, batch=replace(first.batch, step=step), generator_version=step) for step in range(4)]
    assert [score(later[step]).version for step in (0, 1)] == [0, 0]
    with pytest.raises(VersionError, match="holds version 0 of its weights, asked for 1"):
        score(later[2])
    fit(later[0])
    commit(0)
    assert score(later[2]).version == 1
    with pytest.raises(VersionError, match="holds version 1 of its weights, asked for 0"):
        score(later[1])
    with pytest.raises(VersionError, match="asked for 2"):
        score(later[3])
    with pytest.raises(VersionError, match="asked for 2"):
        fit(later[2])
    assert torch.equal(cast.fake_score.unlearnt(later[1].batch).x0, later[1].x0)
    with pytest.raises(VersionError, match="doesn't hold is to be learnt"):
        cast.fake_score.unlearnt(later[0].batch)


# -- the wire --


def test_what_crosses_is_rounded_where_it_is_made(troupe: Any) -> None:
    """bfloat16 on the wire, float32 in the arithmetic; equal scores still differ by exactly nothing."""
    cast, sample = opened(troupe.but(wire="bf16"))
    current, wanted = cast.fake_score.score(sample), cast.teacher.score(sample)
    field = cast.fake_score.difference(current, wanted, node=0)
    assert {tensor.dtype for tensor in (sample.x0, wanted.score, field.gradient)} == {torch.bfloat16}
    assert not field.gradient.any(), "s_φ is the teacher still"
    whole, exact = opened(troupe)
    assert torch.equal(sample.x0, exact.x0.bfloat16())
    theirs = whole.teacher.score(replace(exact, x0=sample.x0.float())).score
    assert torch.equal(wanted.score, theirs.bfloat16())
    cast.fake_score.fit(sample)
    assert all(parameter.grad.dtype == torch.float32 for parameter in cast.fake_score.denoiser.parameters())
    cast.generator.descend(field)
