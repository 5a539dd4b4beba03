"""The teacher and the path node by themselves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from disback_ray.actors.frozen_score import SCORE_TAG, FrozenTeacher, PathNode
from disback_ray.algorithms.noise import Batch, KarrasNoise, add_noise
from disback_ray.algorithms.records import Drawn
from disback_ray.errors import CheckpointError, NonFiniteError, VersionError
from disback_ray.networks.spec import DenoiserSpec, ResNetMLPSpec
from disback_ray.storage import Folder, digest
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.path_nodes import save_node
from disback_ray.teachers.saved import load_denoiser

BATCH = Batch(6, "backtracking", 0, 0, 12)


def test_the_score_is_that_of_the_sample_with_keyed_noise(troupe: Any, by_class: Callable[[Any], Any]) -> None:
    """(D(x_t, σ, c) - x_t) / σ² at x_t = x_0 + σ ε."""
    troupe = by_class(troupe)
    cast = troupe.cast()
    sample = cast.generator.propose(BATCH)
    noisy = add_noise(sample.x0, BATCH, law=troupe.score_noise, tag=SCORE_TAG)
    denoiser = load_denoiser(troupe.teacher)
    with torch.no_grad():
        expected = (denoiser(noisy.x_t, noisy.sigma, sample.condition) - noisy.x_t) / noisy.sigma[:, None] ** 2
    given = cast.teacher.score(sample)
    torch.testing.assert_close(given.score, expected)
    assert (given.node, given.batch) == (0, BATCH)
    relabelled = cast.teacher.score(replace(sample, condition=(sample.condition + 1) % 3))
    assert (relabelled.score != given.score).any(1).all()


def test_a_path_node_has_no_score_before_a_node_is_loaded(troupe: Any) -> None:
    cast = troupe.cast()
    with pytest.raises(VersionError, match="before any node was loaded"):
        cast.path_node.score(cast.generator.propose(BATCH))


OTHER = DenoiserSpec(ResNetMLPSpec(width=8, blocks=1), (2,), 0, 1.42)


@pytest.mark.parametrize(
    ("node", "said"),
    [(2, r"can't read .*node-2.json"), (3, r"node-3.safetensors is not what was written"), (4, "node 4: .* don't fit")],
)
def test_after_a_load_that_failed_the_old_node_does_not_answer(troupe: Any, node: int, said: str) -> None:
    cast = troupe.cast()
    for good in (1, 3):
        save_node(troupe.path, good, load_denoiser(troupe.teacher).state_dict(), step=good)
    troupe.path.write("node-3.safetensors", b"torn")
    save_node(troupe.path, 4, OTHER.build().state_dict(), step=4)
    cast.path_node.load(1)
    sample = cast.generator.propose(BATCH)
    assert cast.path_node.score(sample).node == 1
    with pytest.raises(CheckpointError, match=said):
        cast.path_node.load(node)
    with pytest.raises(VersionError):
        cast.path_node.score(sample)


def test_two_nodes_are_held_however_they_came(troupe: Any) -> None:
    """One that is put up in the middle of a blend reads both, and scores as one that has walked there. Then neither is left."""
    cast = troupe.but(blend=2).cast()
    for node in (1, 2):
        moved = {name: weight + 0.1 * node for name, weight in load_denoiser(troupe.teacher).state_dict().items()}
        save_node(troupe.path, node, moved, step=node)
    sample = cast.generator.propose(BATCH)
    walked, again = cast.path_node, troupe.but(blend=2).cast().path_node
    walked.load(2)
    alone = walked.score(sample)
    walked.load(1, 2)
    again.load(1, 2)
    for role in (walked, again):
        assert torch.equal(role.score(sample, node=2).score, alone.score)
        assert (role.score(sample).node, role.score(sample, node=2).node) == (1, 2)
        assert torch.equal(role.score(sample).score, role.score(sample, node=1).score)
        assert not torch.equal(role.score(sample).score, alone.score)
    assert torch.equal(walked.score(sample).score, again.score(sample).score)
    with pytest.raises(VersionError, match="asked for a score of node 3, and holds 1 and 2"):
        walked.score(sample, node=3)
    walked.load(1)
    with pytest.raises(VersionError, match="asked for a score of node 2, and holds 1 and None"):
        walked.score(sample, node=2)
    with pytest.raises(CheckpointError):
        walked.load(1, 4)
    with pytest.raises(VersionError):
        walked.score(sample)


def test_the_whole_teacher_or_none(troupe: Any) -> None:
    for role in (
        lambda: FrozenTeacher(troupe.path, noise=troupe.score_noise),
        lambda: PathNode(PathCopies(troupe.path, troupe.path), noise=troupe.score_noise),
    ):
        with pytest.raises(CheckpointError, match=r"can't read .*denoiser.json"):
            role()


def test_a_score_that_is_not_finite_is_said_at_once(troupe: Any) -> None:
    cast = troupe.cast()
    sample = cast.generator.propose(BATCH)
    sample.x0[3, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="the score of node 0 has NaN or Inf at step 0"):
        cast.teacher.score(sample)


def test_the_field_for_figure_9() -> None:
    exact = ExactMixture(torch.tensor([[1.0, 0.0]]), std=0.3)
    role = FrozenTeacher(Folder("/nowhere"), noise=KarrasNoise(), exact=exact)
    points = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    expected = torch.tensor([[1.0, 0.0], [0.0, -2.0]]) / (0.3**2 + 0.4**2)  # the score of N((1, 0), std² + σ²)
    torch.testing.assert_close(role.field(points, sigma=0.4), expected)
    assert role.digest() == digest(exact.state_dict())


def test_the_teacher_s_own_samples() -> None:
    """Heun's sampler from the exact score of N((1, 0), 0.3²): the right mean and width, keyed by each sample's number."""
    role = FrozenTeacher(Folder("/nowhere"), noise=KarrasNoise(), exact=ExactMixture(torch.tensor([[1.0, 0.0]]), std=0.3))
    drawn = role.draw(Drawn(torch.empty(2000, 2), None), seed=5, steps=24)
    torch.testing.assert_close(drawn.x.mean(0), torch.tensor([1.0, 0.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.x.std(0), torch.tensor([0.3, 0.3]), rtol=0.06, atol=0)
    few = role.draw(Drawn(torch.empty(70, 2), None), seed=5, steps=24)
    torch.testing.assert_close(few.x, drawn.x[:70])
    assert not torch.allclose(role.draw(Drawn(torch.empty(70, 2), None), seed=6, steps=24).x, few.x)
