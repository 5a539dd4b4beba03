"""The moving average by hand."""

import pytest
import torch
from torch import nn

from disback_ray.algorithms.average import MovingAverage


class Numbers(nn.Module):
    """One weight, one buffer and one count."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.register_buffer("scale", torch.tensor(2 * value))
        self.register_buffer("count", torch.tensor(3))

    @torch.no_grad()
    def become(self, value: float) -> None:
        self.weight.fill_(value)
        self.scale.fill_(2 * value)  # type: ignore[operator]


def test_it_forgets_the_start_soon_and_then_slowly() -> None:
    """w̄ ← d w̄ + (1 - d) w with d = min(decay, (1 + i) / (10 + i)): 1/10, 2/11, 3/12, then at most 0.25."""
    module = Numbers(1.0)
    average = MovingAverage(module, decay=0.25)
    expected = 1.0
    for index, (value, decay) in enumerate([(5.0, 1 / 10), (-3.0, 2 / 11), (4.0, 3 / 12), (0.5, 0.25), (9.0, 0.25)]):
        module.become(value)
        average.update(index)
        expected = decay * expected + (1 - decay) * value
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-6)
        assert average.weights["scale"].item() == pytest.approx(2 * expected, rel=1e-6)
    assert average.weights["count"] == 3


def test_what_is_frozen_is_part_of_the_average_or_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    assert MovingAverage(module, decay=0.5).weights.keys() == module.state_dict().keys()
    average = MovingAverage(module, decay=0.5, whole=False)
    with torch.no_grad():
        module[1].bias.fill_(3.0)
    average.update(0)
    assert average.weights.keys() == {"1.weight", "1.bias"}
    assert (average.weights["1.bias"] > 2).all()


def test_a_short_ramp_keeps_more_of_the_past() -> None:
    module = Numbers(0.0)
    average = MovingAverage(module, decay=0.998, ramp=5)
    module.become(1.0)
    expected = 0.0
    for index in range(50):
        average.update(index)
        expected += (1 - expected) * (1 - (1 + index) / (5 + index))
    assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_decay_0_follows_exactly() -> None:
    module = Numbers(1.0)
    average = MovingAverage(module, decay=0.0)
    for index, value in enumerate([0.1, 1e30, -7e-9]):
        module.become(value)
        average.update(index)
        assert torch.equal(average.weights["weight"], module.weight.data)


def test_the_module_keeps_its_own_weights_and_no_graph_is_kept() -> None:
    module = Numbers(1.0)
    average = MovingAverage(module, decay=0.5)
    module.become(3.0)
    assert average.weights["weight"] == 1
    average.update(0)
    assert module.weight == 3
    assert not average.weights["weight"].requires_grad


def test_state_round_trip() -> None:
    module = Numbers(1.0)
    average, other = MovingAverage(module, decay=0.5), MovingAverage(Numbers(7.0), decay=0.5)
    module.become(2.0)
    average.update(0)
    other.restore(average.state())
    assert all(torch.equal(other.weights[name], average.weights[name]) for name in average.weights)
    module.become(5.0)
    average.update(1)
    assert other.weights["weight"] != average.weights["weight"], "a copy, not a view"
    with pytest.raises(KeyError, match="count"):
        other.restore({name: tensor for name, tensor in average.state().items() if name != "average.count"})
