"""Updates that are made on float32 copies: weights in bfloat16, moments in host memory, moments in 8 bits."""

import copy
import math
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from disback_ray.algorithms import eager, masters
from disback_ray.algorithms.learner import Learner
from disback_ray.algorithms.masters import stochastically_rounded
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.errors import ConfigError, NonFiniteError

ADAM = OptimiserSettings(lr=3e-3, betas=(0.9, 0.99))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.LayerNorm(96), nn.Linear(96, 64))


def in_bfloat16() -> nn.Module:
    """Matrices in bfloat16, vectors in float32, as a role has them."""
    module = network()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16()
    return module


def train(learner: Learner, upto: int) -> list[float]:
    """Each update fits the same shift of fresh numbers; the losses."""
    losses = []
    for version in range(learner.version, upto):
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(version))
        with torch.autocast("cpu", torch.bfloat16, enabled=next(learner.module.parameters()).dtype == torch.bfloat16):
            loss = (learner.module(x).float() - x.roll(1, 1)).square().mean()
        loss.backward()
        learner.gather(32)
        learner.update(version, samples=32)
        losses.append(loss.item())
    return losses


def learner_of(module: nn.Module, settings: OptimiserSettings = ADAM, *, seed: int = 0) -> Learner:
    return Learner(module, settings, updates=100, name="it", seed=seed)


# -- stochastic rounding --


def test_rounding_is_right_in_the_mean_and_to_a_neighbour() -> None:
    """1 + 2⁻⁹ lies a quarter of the way from 1 to the next bfloat16, 1 + 2⁻⁷."""
    values = torch.full((40_000,), 1 + 2**-9)
    rounded = stochastically_rounded(values, seed=1)
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.tolist()) == {1.0, 1 + 2**-7}
    share = (rounded > 1).float().mean().item()
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 40_000))
    assert values.bfloat16().unique().tolist() == [1.0], "rounding to the nearest always loses it"


def test_what_is_a_bfloat16_stays_and_both_signs_and_scales_are_right() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-100, -(2.0**100)])
    assert torch.equal(stochastically_rounded(exact, seed=3).float(), exact)
    values = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1e-2, 1.0, 1e4])[:, None]
    rounded = stochastically_rounded(values.t(), seed=4).t().float()
    assert ((rounded - values).abs() <= values.abs() * 2**-7).all()
    assert ((rounded - values) / values).mean(1).abs().max() < 4 * 2**-7 / math.sqrt(5000)


def test_its_bits_are_keyed() -> None:
    values = torch.rand(1000)
    first = stochastically_rounded(values, seed=1)
    torch.rand(7)
    assert torch.equal(first, stochastically_rounded(values, seed=1))
    assert not torch.equal(first, stochastically_rounded(values, seed=2))


def test_each_tensor_and_each_version_has_bits_of_its_own() -> None:
    """Two equal matrices, with equal gradients: rounded alike they would stay equal for good."""
    module = nn.ModuleList(nn.Linear(1000, 1, bias=False) for _ in range(2))
    learner, moved = learner_of(module.bfloat16(), OptimiserSettings(lr=2**-10, kind="sgd")), list[list[torch.Tensor]]()
    for version in range(2):
        for layer in module:
            layer.weight.data.fill_(1.0)
            layer.weight.grad = torch.ones_like(layer.weight)
        learner.gather(1)
        learner.update(version, samples=1)
        moved.append([layer.weight.detach().clone() for layer in module])
    (one, other), (later, _) = moved
    assert not torch.equal(one, other)
    assert not torch.equal(one, later)


def test_updates_too_small_for_bfloat16_still_move_it() -> None:
    """SGD of 100 × 2⁻¹² from 1: to the nearest it would never leave."""
    module = nn.Linear(1000, 1, bias=False)
    module.weight.data = torch.ones(1, 1000, dtype=torch.bfloat16)
    learner = learner_of(module, OptimiserSettings(lr=2**-12, kind="sgd"))
    for version in range(100):
        module.weight.grad = torch.ones_like(module.weight)
        learner.gather(1)
        learner.update(version, samples=1)
    assert module.weight.dtype == torch.bfloat16
    assert module.weight.float().mean().item() == pytest.approx(1 - 100 * 2**-12, abs=2e-3)


def test_bfloat16_learns_as_float32_does() -> None:
    full, half = learner_of(network()), learner_of(in_bfloat16())
    expected, found = train(full, 60), train(half, 60)
    assert expected[-1] < 0.2 * expected[0]
    assert found[-1] == pytest.approx(expected[-1], rel=0.05)
    other = learner_of(in_bfloat16(), seed=1)
    train(other, 60)
    assert not torch.equal(half.state()["weights.0.weight"], other.state()["weights.0.weight"]), "keyed by the run's seed"


def test_at_most_one_copy_lives_and_only_while_it_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, seen = learner_of(in_bfloat16()), list[list[int]]()
    step = eager.step

    def watched(optimiser: torch.optim.Optimizer) -> None:
        seen.append([len(master) for master in learner.masters.masters if master.ndim > 1 and len(master)])
        step(optimiser)

    monkeypatch.setattr(eager, "step", watched)
    train(learner, 1)
    assert sorted(seen) == [[], [64], [96]], "the vectors, which are their own, and each matrix alone"
    assert [master.numel() for master in learner.masters.masters if master.ndim == 1 and not master.numel()] == [0, 0]
    assert all(master.grad is None for master in learner.masters.masters)


def lines_of_an_update(tensors: int) -> int:
    """How many lines of Python an update of so many tensors in bfloat16 runs, once there are moments."""
    module = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(tensors)).bfloat16()
    learner, lines = learner_of(module), 0

    def count(frame: FrameType, event: str, given: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    for version in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        learner.gather(1)
        sys.settrace(count if version else before)
        try:
            learner.update(version, samples=1)
        finally:
            sys.settrace(before)
    return lines


def test_twice_the_tensors_are_twice_the_work() -> None:
    """torch.optim looks at every tensor that it has at each step: 1,680 steps of 1,680 tensors took as long again as the updates."""
    few, many = lines_of_an_update(50), lines_of_an_update(100)
    assert few > 50, "counted"
    assert many < 2.1 * few


def test_the_norm_of_bfloat16_gradients_is_float32_s() -> None:
    module = nn.Linear(300, 1, bias=False).bfloat16()
    learner = learner_of(module, OptimiserSettings(lr=1.0, kind="sgd", clip=1.0))
    module.weight.grad = torch.full((1, 300), 3.0, dtype=torch.bfloat16)
    before = module.weight.float().detach().clone()
    learner.gather(1)
    assert learner.update(0, samples=1)["grad_norm"] == pytest.approx(3 * math.sqrt(300), rel=1e-6)
    assert (before - module.weight.float()).norm().item() == pytest.approx(1.0, rel=2e-2), "cut to 1"
    module.weight.grad = torch.full((1, 300), math.inf, dtype=torch.bfloat16)
    learner.gather(1)
    with pytest.raises(NonFiniteError):
        learner.update(1, samples=1)


# -- moments in host memory --


def test_offloading_changes_no_bit_where_the_host_is_the_device() -> None:
    plain, offloaded = learner_of(network()), learner_of(network(), OptimiserSettings(lr=3e-3, betas=(0.9, 0.99), offload=True))
    assert train(plain, 5) == train(offloaded, 5)
    assert offloaded.masters.masters[0] is offloaded.masters.weights[0], "no copy"
    assert offloaded.masters.buffers is None


def test_away_from_the_device_the_moments_are_with_the_host_s_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: no parameter is its own master, each is copied to the host, updated there and copied back, bit for bit the same."""
    plain = learner_of(network())
    expected = train(plain, 5)
    monkeypatch.setattr(masters, "_is_own", lambda weight, home: False)
    away = learner_of(network(), OptimiserSettings(lr=3e-3, betas=(0.9, 0.99), offload=True))
    assert all(master.numel() == 0 for master in away.masters.masters)
    assert train(away, 5) == expected
    assert all(torch.equal(tensor, away.state()[name]) for name, tensor in plain.state().items())
    assert {value.device.type for entries in away.optimiser.state.values() for value in entries.values()} == {"cpu"}


# -- moments in 8 bits --


@pytest.fixture(scope="module")
def eight() -> OptimiserSettings:
    pytest.importorskip("bitsandbytes")
    return OptimiserSettings(lr=3e-3, kind="adamw", betas=(0.9, 0.99), weight_decay=0.01, states="8bit")


def test_8_bit_moments_learn_as_adamw_s_do(eight: OptimiserSettings) -> None:
    settings = OptimiserSettings(lr=3e-3, kind="adamw", betas=(0.9, 0.99), weight_decay=0.01)
    full, small = learner_of(network(), settings), learner_of(network(), eight)
    start = network().state_dict()["0.weight"]
    expected, found = train(full, 60), train(small, 60)
    assert found[-1] == pytest.approx(expected[-1], rel=0.05)
    moved, error = (learner.state()["weights.0.weight"] for learner in (full, small))
    assert (moved - error).norm() < 0.1 * (moved - start).norm()
    moments = {name: value for name, value in small.state().items() if name.startswith("optimiser.0.state")}
    assert [(value.dtype, value.numel()) for value in moments.values()] == [(torch.uint8, 64 * 96)] * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_of_it_goes_on_from_a_saved_state(eight: OptimiserSettings, dtype: str) -> None:
    make = network if dtype == "float32" else in_bfloat16
    straight, left, again = (learner_of(make(), eight) for _ in range(3))
    train(straight, 8)
    train(left, 3)
    saved = safetensors.torch.load(safetensors.torch.save(left.state()))
    train(again, 1)
    again.restore(saved)
    train(again, 8)
    ours, theirs = again.state(), straight.state()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"states: 8bit needs bitsandbytes: pip install 'disback-ray\[8bit\]'"):
        learner_of(network(), OptimiserSettings(lr=1e-3, states="8bit"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "sgd", "states": "8bit"}, "sgd has none"),
        ({"kind": "sgd", "offload": True}, "sgd has none"),
        ({"states": "8bit", "offload": True}, "choose one"),
        ({"states": "8bit", "weight_decay": 0.1}, "choose kind: adamw"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OptimiserSettings(lr=0.1, **settings)


# -- a part that is frozen --


def test_only_what_learns_is_updated_and_saved() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    learner = learner_of(module)
    train(learner, 3)
    assert torch.equal(module[0].weight, before["0.weight"])
    state = learner.state()
    assert {name for name in state if name.startswith("weights.")} == {
        f"weights.{name}" for name in before if not name.startswith("0.")
    }
    again = learner_of(copy.deepcopy(module))
    train(again, 2)
    again.restore({name: tensor.clone() for name, tensor in state.items()})
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in state.items())
    del state["weights.3.bias"]
    with pytest.raises(RuntimeError, match=r"3\.bias"):
        again.restore(state)


# -- warm-up --


def rates(settings: OptimiserSettings, updates: int) -> Iterator[float]:
    learner = Learner(nn.Linear(1, 1, bias=False), settings, updates=updates, name="it")
    for version in range(updates):
        learner.module.weight.grad = torch.ones(1, 1)
        learner.gather(1)
        yield learner.update(version, samples=1)["lr"]


def test_the_rate_warms_up_in_a_line_and_by_default_not_at_all() -> None:
    assert list(rates(OptimiserSettings(lr=0.4, kind="sgd", warmup=4), 6)) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert list(rates(OptimiserSettings(lr=0.4, kind="sgd"), 2)) == [0.4, 0.4]
    falling = OptimiserSettings(lr=0.4, kind="sgd", warmup=2, decay_after=0.5)
    assert list(rates(falling, 4)) == pytest.approx([0.2, 0.4, 0.4, 0.2])
