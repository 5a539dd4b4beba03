"""The four roles together, as both algorithms play them: the path out, the walk back, and where they end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from disback_ray.actors.frozen_score import FrozenTeacher
from disback_ray.algorithms import backtracking
from disback_ray.algorithms.cast import Cast
from disback_ray.algorithms.losses import denoising_loss
from disback_ray.algorithms.noise import Batch, KarrasNoise, add_noise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.path import switches
from disback_ray.storage import digest
from disback_ray.teachers import path_copies
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.path_nodes import load_node
from disback_ray.teachers.saved import load_denoiser


def weights(denoiser: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in denoiser.state_dict().values()])


# -- Algorithm 1 --


def test_the_path_leads_from_the_teacher_to_what_the_generator_makes(troupe: Any) -> None:
    """Node by node it fits the samples of G⁰ better (Eq. 7), and lies further from the teacher."""
    troupe = troupe.but(marks=(10, 40, 160), batch=64, optimiser=OptimiserSettings(lr=2e-3))
    cast = troupe.cast()
    before = cast.generator.digest()
    troupe.record(cast)
    assert cast.generator.digest() == before, "G⁰ is frozen"
    batch = Batch(99, "recording", 0, 0, 2000)
    x0 = cast.generator.propose(batch).x0
    noisy = add_noise(x0, batch, law=KarrasNoise(0.05, 10.0), tag="fit")
    teacher = load_denoiser(troupe.teacher)
    nodes = [teacher] + [load_denoiser(troupe.teacher) for _ in troupe.marks]
    for node, denoiser in enumerate(nodes[1:], start=1):
        denoiser.load_state_dict(load_node(troupe.path, node))
    with torch.no_grad():
        losses = [
            float(denoising_loss(denoiser(noisy.x_t, noisy.sigma), x0, noisy.sigma, sigma_data=1.42).mean()) for denoiser in nodes
        ]
    distances = [float((weights(denoiser) - weights(teacher)).norm()) for denoiser in nodes]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert distances == sorted(set(distances)), "0 for the teacher, and further with each node"


def test_recording_starts_from_the_teacher_and_ends_at_the_last_node(troupe: Any) -> None:
    cast = troupe.cast()
    cast.fake_score.begin("recording", node=0)
    assert cast.fake_score.digest() == digest(load_denoiser(troupe.teacher).state_dict())
    troupe.record(cast)
    assert troupe.path.names() == [f"node-{node}.{kind}" for node in (1, 2, 3) for kind in ("json", "safetensors")]
    assert cast.fake_score.digest() == digest(load_node(troupe.path, 3))


# -- Algorithm 2 --


@dataclass
class Witness:
    """Stands before a target and notes whose score was given, and with which weights."""

    role: Any
    seen: list[tuple[int, str]]

    def score(self, sample: Any) -> Any:
        given = self.role.score(sample)
        self.seen.append((given.node, self.role.digest()))
        return given

    def prefetch(self, node: int) -> Any:
        return self.role.prefetch(node)

    def load(self, node: int) -> Any:
        return self.role.load(node)


def test_each_node_s_weights_become_the_target_s_and_the_teacher_s_are_the_last(troupe: Any) -> None:
    cast, seen = troupe.cast(), list[tuple[int, str]]()
    troupe.record(cast)
    cast.fake_score.begin(backtracking.STAGE, node=3)
    assert cast.fake_score.digest() == digest(load_node(troupe.path, 3)), "φ ← θ'_N"
    watched = Cast(Witness(cast.teacher, seen), Witness(cast.path_node, seen), cast.fake_score, cast.generator)
    troupe.backtrack(watched, switches(3, (2, 1), total=8))
    node_2, node_1 = ((node, digest(load_node(troupe.path, node))) for node in (2, 1))
    teacher = (0, digest(load_denoiser(troupe.teacher).state_dict()))
    assert seen == [node_2] * 2 + [node_1] + [teacher] * 5
    assert len({weights for _, weights in seen}) == 3


def test_another_target_is_another_score(troupe: Any) -> None:
    cast = troupe.cast()
    troupe.record(cast)
    sample = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[0])
    scores = [cast.teacher.score(sample).score]
    for node in (1, 2, 3):
        cast.path_node.load(node)
        scores.append(cast.path_node.score(sample).score)
    assert all(not torch.allclose(scores[i], scores[j], rtol=1e-3) for i in range(4) for j in range(i))
    assert torch.equal(scores[0], cast.teacher.score(sample).score)


def parameters(*roles: Any) -> Iterator[nn.Parameter]:
    for role in roles:
        yield from role.denoiser.parameters()


def test_no_gradient_reaches_a_score_model_from_the_generator_s_loss(troupe: Any) -> None:
    cast = troupe.cast()
    troupe.record(cast)
    cast.fake_score.begin(backtracking.STAGE, node=3)
    cast.path_node.load(2)
    sample = cast.generator.propose(troupe.batches(backtracking.STAGE, 0)[0])
    current, wanted = cast.fake_score.score(sample), cast.path_node.score(sample)
    field = cast.fake_score.difference(current, wanted, node=2)
    tensors = [sample.x0, wanted.score, field.gradient]
    assert [(tensor.requires_grad, tensor.grad_fn) for tensor in tensors] == [(False, None)] * 3
    cast.generator.descend(field)
    assert all(p.grad is None for p in parameters(cast.teacher, cast.path_node, cast.fake_score))
    assert not any(p.requires_grad for p in parameters(cast.teacher, cast.path_node))
    descended = [p.grad.clone() for p in cast.generator.network.parameters()]
    assert all(gradient.any() for gradient in descended)
    cast.fake_score.fit(sample)
    assert all(p.grad is not None for p in parameters(cast.fake_score))
    assert all(torch.equal(p.grad, was) for p, was in zip(cast.generator.network.parameters(), descended, strict=True))


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_make_the_same_updates(troupe: Any, parts: int) -> None:
    """To float rounding: plain SGD, so that nothing magnifies it."""
    troupe = troupe.but(optimiser=OptimiserSettings(lr=0.02, kind="sgd"), fake_updates=2, steps=6)
    ends = []
    for micro_batches in (1, parts):
        cast = troupe.cast()
        split = troupe.but(micro_batches=micro_batches)
        split.record(cast)
        cast.fake_score.begin(backtracking.STAGE, node=3)
        start = weights(cast.generator.network), weights(cast.fake_score.denoiser)
        split.backtrack(cast, switches(3, 2, total=6))
        ends.append((weights(cast.generator.network), weights(cast.fake_score.denoiser)))
    for whole, cut, was in zip(*ends, start, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
        assert (whole - was).norm() > 1e-2


# -- where Algorithm 2 ends, with exact scores --


class Gaussian(nn.Module):
    """G(z) = μ + s z."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([-1.0, 2.0]))
        self.spread = nn.Parameter(torch.tensor(1.5))

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.mean + self.spread * z


@dataclass(frozen=True)
class GaussianSpec:
    shape: tuple[int, ...] = (2,)
    classes: int = 0
    network: None = None

    def build(self, *, seed: int) -> nn.Module:
        return Gaussian()


class ExactFake(nn.Module):
    """The denoiser of the student's own distribution, N(μ, s²), as it is at the moment. It has nothing to learn."""

    def __init__(self, student: Gaussian) -> None:
        super().__init__()
        self.student = [student]  # not one of its own modules
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        (student,) = self.student
        exact = ExactMixture(student.mean.detach()[None], std=student.spread.item())
        return exact(x, sigma) + 0 * self.idle


@pytest.mark.parametrize("weighting", ["score_difference", "dmd"])
def test_with_exact_scores_the_student_becomes_the_data(troupe: Any, monkeypatch: pytest.MonkeyPatch, weighting: str) -> None:
    """Eq. (8) descends KL(q^G ‖ q): N((-1, 2), 1.5²) walks to N((0.5, -0.3), 0.4²), and there the field is zero."""
    optimiser = OptimiserSettings(lr=0.05, decay_after=0.5)
    troupe = troupe.but(
        generator=GaussianSpec(), steps=250, batch=32, weighting=weighting, optimiser=optimiser, score_noise=KarrasNoise(0.1, 5.0)
    )
    cast = troupe.cast()
    monkeypatch.setattr(path_copies, "load_denoiser", lambda _: ExactFake(cast.generator.network))
    cast.fake_score.begin(backtracking.STAGE, node=0)
    exact = ExactMixture(torch.tensor([[0.5, -0.3]]), std=0.4)
    teacher = FrozenTeacher(troupe.teacher, noise=troupe.score_noise, exact=exact)
    troupe.backtrack(Cast(teacher, cast.path_node, cast.fake_score, cast.generator), switches(0, 1, total=250))
    student = cast.generator.network
    torch.testing.assert_close(student.mean.data, torch.tensor([0.5, -0.3]), rtol=0, atol=5e-3)
    assert abs(student.spread.item()) == pytest.approx(0.4, abs=5e-3)
