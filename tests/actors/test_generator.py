"""G_stu by itself: what it proposes, how it descends a field, and what it leaves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from disback_ray.actors import mishaps
from disback_ray.actors.generator import Generator
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.average import MovingAverage
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Drawn, Field, Sample
from disback_ray.errors import CheckpointError, NonFiniteError, VersionError
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.storage import digest
from disback_ray.teachers.saved import load_denoiser

BATCH = Batch(6, backtracking.STAGE, 0, 0, 12)
PULL = torch.randn(12, 2, generator=torch.Generator().manual_seed(2)) / 12


@pytest.fixture
def generator(troupe: Any) -> Generator:
    made: Generator = troupe.cast().generator
    return made


def descend(generator: Generator, step: int, pull: torch.Tensor = PULL) -> Sample:
    """The step up to its commit, with `pull` as the field."""
    sample = generator.propose(replace(BATCH, step=step))
    generator.descend(Field(sample.batch, pull, float(pull.norm())))
    return sample


def test_samples_are_g_of_keyed_noise(generator: Generator) -> None:
    sample = generator.propose(BATCH)
    assert torch.equal(sample.x0, generator.network(BATCH.normal("z", (2,))).detach())
    assert (sample.batch, sample.condition, sample.generator_version) == (BATCH, None, 0)
    parts = [generator.propose(replace(BATCH, first=first, size=6)).x0 for first in (0, 6)]
    torch.testing.assert_close(torch.cat(parts), sample.x0)


def test_it_starts_as_the_teacher_at_one_sigma_and_asks_for_every_class(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    """G(z, c) = D_θ(σ_init z, σ_init, c)."""
    troupe = by_class(troupe)
    sample = troupe.cast().generator.propose(BATCH)
    assert sample.condition is not None
    assert set(sample.condition.tolist()) == {0, 1, 2}
    z = BATCH.normal("z", (2,))
    with torch.no_grad():
        expected = load_denoiser(troupe.teacher)(2.5 * z, torch.full((12,), 2.5), sample.condition)
    assert torch.equal(sample.x0, expected)


def test_it_does_not_start_from_another_network(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    other = troupe.teacher
    with pytest.raises(CheckpointError, match="the weights don't fit the network"):
        by_class(troupe).but(start=other).cast()


def test_descending_is_dmd_s_regression(generator: Generator) -> None:
    """x_0.backward(g) is the gradient of ½ ‖x_0 - stopgrad(x_0 - g)‖², the form in which the authors write Eq. (8)."""
    sample = generator.propose(BATCH)
    x0 = generator.network(BATCH.normal("z", (2,)))
    regression = 0.5 * (x0 - (x0 - PULL).detach()).square().sum()
    expected = torch.autograd.grad(regression, list(generator.network.parameters()))
    generator.descend(Field(sample.batch, PULL, 1.0))
    for parameter, gradient in zip(generator.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_all_that_is_left_of_a_step_is_its_descents_and_its_commit(troupe: Any) -> None:
    halves, ends = [replace(BATCH, first=first, size=6) for first in (0, 6)], []
    for joined in (0, 1, 2):
        generator = troupe.cast().generator
        fields = [Field(generator.propose(half).batch, PULL[half.first : half.first + 6], 1.0 + half.first) for half in halves]
        for field in fields[: 2 - joined]:
            generator.descend(field)
        told = generator.descend_all(*fields[2 - joined :], step=0) if joined else generator.commit(0)
        ends.append((told, generator.digest()))
    assert ends[1:] == ends[:1] * 2
    half = generator.propose(replace(BATCH, step=1, size=6))
    bad = Field(half.batch, PULL[:6] * torch.nan, 1.0)
    with pytest.raises(NonFiniteError, match="at step 1") as raised, mishaps.told("generator", "descend_all", [bad]):
        generator.descend_all(bad, step=1)
    assert raised.value.keys["method"] == "descend", "as where each is a call"
    with pytest.raises(VersionError, match="gradients of 0 of 12"):
        generator.descend_all(step=1)


def test_samples_move_against_the_field(generator: Generator) -> None:
    before = descend(generator, 0).x0
    generator.commit(0)
    assert ((generator.propose(replace(BATCH, step=1)).x0 - before) * PULL).sum() != 0
    moved = generator.network(BATCH.normal("z", (2,))) - before
    assert (moved * PULL).sum() < 0


def test_only_backtracking_keeps_graphs(generator: Generator) -> None:
    recorded = generator.propose(replace(BATCH, stage=degradation.STAGE, step=5))
    assert not recorded.x0.requires_grad
    with pytest.raises(VersionError, match="a score difference came for samples that it doesn't hold"):
        generator.descend(Field(recorded.batch, PULL, 1.0))


def test_steps_come_in_their_order_once_and_whole(generator: Generator) -> None:
    with pytest.raises(VersionError, match="holds version 0 of its weights, asked for 1"):
        generator.propose(replace(BATCH, step=1))
    with pytest.raises(VersionError, match="gradients of 0 of 12 samples"):
        generator.commit(0)
    half = generator.propose(replace(BATCH, size=6))
    generator.descend(Field(half.batch, PULL[:6], 1.0))
    with pytest.raises(VersionError, match="gradients of 6 of 12 samples"):
        generator.commit(0)
    with pytest.raises(VersionError, match="doesn't hold"):
        generator.descend(Field(half.batch, PULL[:6], 1.0))  # twice
    rest = generator.propose(replace(BATCH, first=6, size=6))
    generator.descend(Field(rest.batch, PULL[6:], 7.0))
    told, after = generator.commit(0), generator.digest()
    assert told["field_norm"] == pytest.approx(5), "the root mean square of 1 and 7"
    assert generator.commit(0) == told
    assert generator.digest() == after
    with pytest.raises(VersionError, match="holds version 1 of its weights, asked for 0"):
        generator.propose(BATCH)
    with pytest.raises(VersionError, match="asked for 2"):
        generator.commit(2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_field_that_is_not_finite_changes_nothing(generator: Generator, bad: float) -> None:
    before = generator.digest()
    with pytest.raises(NonFiniteError, match="the score difference has NaN or Inf at step 0"):
        descend(generator, 0, PULL.index_fill(0, torch.tensor([3]), bad))
    descend(generator, 0, PULL.index_fill(0, torch.tensor([3]), 3e38))  # finite, but its norm is not
    with pytest.raises(NonFiniteError, match="generator: the gradient has NaN or Inf at version 0"):
        generator.commit(0)
    assert generator.digest() == before


def test_samples_that_are_not_finite_are_said_at_once(generator: Generator) -> None:
    next(generator.network.parameters()).data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the generator's samples have NaN or Inf at step 0"):
        generator.propose(BATCH)


def test_the_average_follows_and_is_what_draws(generator: Generator) -> None:
    mirror = MovingAverage(generator.network, decay=0.9)
    for step in range(4):
        descend(generator, step)
        generator.commit(step)
        mirror.update(step)
    assert digest(mirror.weights) == digest(generator.average.weights) != digest(generator.network.state_dict())
    wanted = Drawn(torch.empty(300, 2), None)
    many = generator.draw(wanted, seed=1)
    few = generator.draw(Drawn(wanted.x[:70], None), seed=1)
    torch.testing.assert_close(few.x, many.x[:70], msg="a sample is the same whatever else is drawn")
    generator.network.load_state_dict(mirror.weights)
    with torch.no_grad():
        torch.testing.assert_close(generator.network(Batch(1, "draw", 0, 0, 70).normal("z", (2,))), few.x)
    assert not torch.allclose(generator.draw(wanted, seed=2).x, many.x)


def test_draws_are_of_the_classes_asked_for(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    generator = by_class(troupe).cast().generator
    classes = torch.arange(300) % 3
    drawn = generator.draw(Drawn(torch.empty(300, 2), classes), seed=1)
    z = torch.cat([Batch(1, "draw", 0, first, 10).normal("z", (2,)) for first in range(0, 300, 10)])
    with torch.no_grad():
        torch.testing.assert_close(drawn.x, generator.network(z, classes))
    assert drawn.condition is classes


def test_its_export_is_averaged_and_raw_weights_and_settings(generator: Generator, troupe: Any) -> None:
    descend(generator, 0)
    generator.commit(0)
    generator.export(folder := troupe.path / "generator")
    settings = folder.read_json("generator.json")
    assert GeneratorSpec.from_json(settings) == troupe.generator
    averaged = folder.read_tensors("model.safetensors", sha256=settings["weights"]["sha256"])
    assert digest(averaged) == digest(generator.average.weights)
    assert digest(folder.read_tensors("raw.safetensors")) == digest(generator.network.state_dict()) != digest(averaged)


def test_after_a_load_nothing_of_before_is_left(generator: Generator, troupe: Any) -> None:
    proof = generator.write(generator.snapshot(), troupe.path)
    before = generator.digest()
    sample = descend(generator, 0)
    generator.propose(replace(BATCH, first=12))
    generator.load(troupe.path, sha256=str(proof["sha256"]))
    assert generator.digest() == before
    assert all(parameter.grad is None for parameter in generator.network.parameters())
    with pytest.raises(VersionError, match="gradients of 0 of 12"):
        generator.commit(0)
    with pytest.raises(VersionError, match="doesn't hold"):
        generator.descend(Field(replace(sample.batch, first=12), PULL, 1.0))


def test_a_file_that_is_not_its_own_is_refused(generator: Generator, troupe: Any) -> None:
    generator.write(generator.snapshot(), troupe.path)
    with pytest.raises(CheckpointError, match="is not what was written"):
        generator.load(troupe.path, sha256="0" * 64)
    tensors = troupe.path.read_tensors("generator.safetensors")
    del tensors["average.network.0.weight"]
    proof = troupe.path.write_tensors("generator.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"generator.safetensors doesn't fit .*average.network.0.weight"):
        generator.load(troupe.path, sha256=proof["sha256"])
