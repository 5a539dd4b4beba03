"""Updates by hand, versions, refusals, and going on from a saved state bit for bit."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from disback_ray.algorithms.learner import Learner
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.errors import NonFiniteError, VersionError

KINDS = [
    OptimiserSettings(lr=0.1, kind="sgd", weight_decay=0.01),
    OptimiserSettings(lr=0.1, kind="adam", betas=(0.5, 0.9), weight_decay=0.01, decay_after=0.25),
    OptimiserSettings(lr=0.1, kind="adamw", betas=(0.0, 0.99), weight_decay=0.01, clip=0.5),
]


def line() -> nn.Linear:
    """1 × 2 weights (1, -2), no bias."""
    module = nn.Linear(2, 1, bias=False)
    module.weight.data = torch.tensor([[1.0, -2.0]])
    return module


def give(learner: Learner, *gradient: float, samples: int = 4) -> None:
    for parameter in learner.module.parameters():
        parameter.grad = torch.tensor([gradient])
    learner.gather(samples)


def weights(learner: Learner) -> list[float]:
    return [value for parameter in learner.module.parameters() for value in parameter.flatten().tolist()]


def sgd(w: Tensor, g: Tensor, step: int, memory: dict[str, Tensor]) -> Tensor:
    return w - 0.1 * (g + 0.01 * w)


def adam(w: Tensor, g: Tensor, step: int, memory: dict[str, Tensor]) -> Tensor:
    """Kingma and Ba 2015, Algorithm 1, with the decay in the gradient."""
    g = g + 0.01 * w
    memory["m"] = 0.5 * memory.get("m", torch.zeros(2)) + 0.5 * g
    memory["v"] = 0.9 * memory.get("v", torch.zeros(2)) + 0.1 * g**2
    mean, square = memory["m"] / (1 - 0.5**step), memory["v"] / (1 - 0.9**step)
    return w - 0.1 * mean / (square.sqrt() + 1e-8)


def adamw(w: Tensor, g: Tensor, step: int, memory: dict[str, Tensor]) -> Tensor:
    """Loshchilov and Hutter 2019, Algorithm 2: the decay beside the gradient."""
    memory["v"] = 0.99 * memory.get("v", torch.zeros(2)) + 0.01 * g**2
    return w - 0.1 * 0.01 * w - 0.1 * g / ((memory["v"] / (1 - 0.99**step)).sqrt() + 1e-8)


@pytest.mark.parametrize(("settings", "rule"), list(zip(KINDS, [sgd, adam, adamw], strict=True)), ids=["sgd", "adam", "adamw"])
def test_updates_by_hand(settings: OptimiserSettings, rule: Callable[..., Tensor]) -> None:
    learner = Learner(line(), replace(settings, clip=None, decay_after=1.0), updates=3, name="it")
    expected, memory = torch.tensor([1.0, -2.0]), dict[str, Tensor]()
    for version, gradient in enumerate([(3.0, -4.0), (0.1, 0.2), (-1.0, 0.0)]):
        give(learner, *gradient)
        learner.update(version, samples=4)
        expected = rule(expected, torch.tensor(gradient), version + 1, memory)
        assert weights(learner) == pytest.approx(expected.tolist(), rel=1e-6)
        assert all(parameter.grad is None for parameter in learner.module.parameters()), "none is left for the next version"


@pytest.mark.parametrize(("clip", "moved"), [(None, 1.0), (10.0, 1.0), (2.5, 0.5), (0.05, 0.01)])
def test_the_gradient_s_norm_is_clipped(clip: float | None, moved: float) -> None:
    """|(3, -4)| = 5; what is reported is the norm before the cut."""
    learner = Learner(line(), OptimiserSettings(lr=0.1, kind="sgd", clip=clip), updates=1, name="it")
    give(learner, 3.0, -4.0)
    assert learner.update(0, samples=4) == {"grad_norm": pytest.approx(5), "lr": 0.1}
    assert weights(learner) == pytest.approx([1 - 0.3 * moved, -2 + 0.4 * moved], rel=1e-4)


@pytest.mark.parametrize("after", [0.0, 0.5, 0.75, 1.0])
def test_the_rate_falls_as_a_cosine_after_its_share(after: float) -> None:
    """lr until the share is done, half of it half way through the rest, 0 at the end."""
    settings = OptimiserSettings(lr=0.2, decay_after=after)
    assert [settings.rate(share * after, update=0) for share in (0, 0.5, 1)] == [0.2] * 3
    if after < 1:
        assert settings.rate(after + (1 - after) / 2, update=0) == pytest.approx(0.1)
        assert settings.rate(after + (1 - after) / 3, update=0) == pytest.approx(0.15)  # (1 + cos 60°) / 2
        assert settings.rate(1, update=0) == pytest.approx(0, abs=1e-12)


def test_the_rate_of_an_update_is_that_of_its_share() -> None:
    learner = Learner(line(), OptimiserSettings(lr=1.0, kind="sgd", decay_after=0.5), updates=4, name="it")
    rates = []
    for version in range(4):
        give(learner, 1.0, 0.0)
        before = weights(learner)[0]
        rates.append(learner.update(version, samples=4)["lr"])
        assert before - weights(learner)[0] == pytest.approx(rates[-1])
    assert rates == pytest.approx([1, 1, 1, 0.5])


def test_an_update_is_made_once() -> None:
    learner = Learner(line(), OptimiserSettings(lr=0.1), updates=9, name="it")
    give(learner, 3.0, -4.0)
    first, after = learner.update(0, samples=4), weights(learner)
    assert learner.update(0, samples=4) == first
    assert (weights(learner), learner.version) == (after, 1)


@pytest.mark.parametrize(
    ("version", "gathered", "said"),
    [
        (1, 4, "generator holds version 0 of its weights, asked for 1"),
        (-2, 4, "asked for -2"),
        (0, 2, "generator: version 0 has the gradients of 2 of 4 samples"),
        (0, 6, "of 6 of 4 samples"),
    ],
)
def test_another_version_or_missing_micro_batches_are_refused(version: int, gathered: int, said: str) -> None:
    learner = Learner(line(), OptimiserSettings(lr=0.1), updates=9, name="generator")
    give(learner, 3.0, -4.0, samples=gathered)
    with pytest.raises(VersionError, match=said):
        learner.update(version, samples=4)
    assert (weights(learner), learner.version) == ([1, -2], 0)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_changes_where_the_gradient_is_not_finite(bad: float, clip: float | None) -> None:
    learner = Learner(line(), OptimiserSettings(lr=0.1, clip=clip), updates=9, name="fake_score")
    give(learner, 3.0, bad)
    with pytest.raises(NonFiniteError, match="fake_score: the gradient has NaN or Inf at version 0"):
        learner.update(0, samples=4)
    assert (weights(learner), learner.version) == ([1, -2], 0)
    assert learner.optimiser.state_dict()["state"] == {}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 1))


def train(learner: Learner, upto: int) -> None:
    for version in range(learner.version, upto):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(version))
        (learner.module(x) - x.prod(1, keepdim=True)).square().mean().backward()
        learner.gather(5)
        learner.update(version, samples=5)


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind)
def test_going_on_from_a_saved_state_is_going_straight_on(settings: OptimiserSettings) -> None:
    straight, left, again = (Learner(network(), settings, updates=8, name="it") for _ in range(3))
    train(straight, 8)
    train(left, 3)
    saved = {name: tensor.clone() for name, tensor in left.state().items()}
    train(again, 1)  # whatever it did before is forgotten
    again.module(torch.ones(1, 3)).sum().backward()
    again.gather(1)
    again.restore(saved)
    train(again, 8)
    ours, theirs = again.state(), straight.state()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("without", ["weights.0.bias", "version"])
def test_the_state_of_another_network_is_refused(without: str) -> None:
    saved = Learner(network(), KINDS[1], updates=8, name="it").state()
    del saved[without]
    with pytest.raises((RuntimeError, KeyError), match=without.removeprefix("weights.")):
        Learner(network(), KINDS[1], updates=8, name="it").restore(saved)
