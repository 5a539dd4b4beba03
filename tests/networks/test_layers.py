"""Resampling, attention and embeddings against direct formulas."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray.networks.layers import Conv2d, attend, initialise, positional_embedding


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_box_filter_is_doubling_and_averaging() -> None:
    x = noise(2, 3, 4, 4)
    up, down = Conv2d(3, 3, kernel=0, up=True), Conv2d(3, 3, kernel=0, down=True)
    torch.testing.assert_close(up(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    torch.testing.assert_close(down(x), x.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5)))
    torch.testing.assert_close(down(up(x)), x)
    assert torch.equal(down.resample_filter, torch.full((1, 1, 2, 2), 0.25))


def test_a_longer_filter_is_its_outer_product() -> None:
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 4, 4] = 1  # an impulse
    up = Conv2d(1, 1, kernel=0, up=True, resample_filter=(1, 3, 3, 1))(x)
    torch.testing.assert_close(up[0, 0, 7:11, 7:11], 4 * torch.outer(taps, taps))
    assert up.sum() == pytest.approx(4)
    down = Conv2d(1, 1, kernel=0, down=True, resample_filter=(1, 3, 3, 1))(x)
    torch.testing.assert_close(down[0, 0, 1:3, 1:3], torch.outer(taps[[3, 1]], taps[[3, 1]]))


def test_a_convolution_follows_the_resampling_or_precedes_it() -> None:
    x = noise(1, 2, 8, 8)
    for filters in ((1, 1), (1, 3, 3, 1)):
        down = Conv2d(2, 2, kernel=0, down=True, resample_filter=filters)
        before = Conv2d(2, 5, kernel=3, down=True, resample_filter=filters)
        initialise(before)
        assert before.weight is not None
        torch.testing.assert_close(before(x), F.conv2d(down(x), before.weight, before.bias, padding=1))
        after = Conv2d(2, 2, kernel=3, down=True, resample_filter=filters, filter_last=True)
        after.load_state_dict({"weight": before.weight[:2], "bias": torch.zeros(2), "resample_filter": before.resample_filter})
        # Away from the border the order of the two paddings can't be seen.
        inner = down(F.conv2d(x, before.weight[:2], padding=1))[..., 1:-1, 1:-1]
        torch.testing.assert_close(after(x)[..., 1:-1, 1:-1], inner)


def test_attention_is_a_softmax_over_pixels() -> None:
    q, k, v = noise(3, 2, 2, 4, 9)  # [B, heads, dim, H·W]
    weights = torch.einsum("bhdq,bhdk->bhqk", q, k).div(math.sqrt(4)).softmax(dim=-1)
    expected = torch.einsum("bhqk,bhdk->bhdq", weights, v).reshape(2, 8, 3, 3)
    torch.testing.assert_close(attend(q, k, v, out=(2, 8, 3, 3)), expected)


def test_positional_embedding_has_its_end_frequencies() -> None:
    values = torch.tensor([0.0, 1.5])
    embedding = positional_embedding(values, 8, endpoint=True)
    assert embedding.shape == (2, 8)
    torch.testing.assert_close(embedding[1, [0, 3]], torch.tensor([1.5, 1.5e-4]).cos())
    torch.testing.assert_close(embedding[1, [4, 7]], torch.tensor([1.5, 1.5e-4]).sin())
    torch.testing.assert_close(positional_embedding(values, 8)[1, 7], torch.tensor(1.5 * 10 ** (-4 * 3 / 4)).sin())


def test_initial_weights_follow_the_seed_and_glorot() -> None:
    def fresh(seed: int) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = nn.Sequential(nn.Linear(64, 128), Conv2d(128, 64, kernel=3, gain=0.1))
            initialise(layers)
        return layers

    first, again, other = fresh(1).state_dict(), fresh(1).state_dict(), fresh(2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert first["0.weight"].std().item() == pytest.approx(math.sqrt(2 / 192), rel=0.03)
    assert first["1.weight"].std().item() == pytest.approx(0.1 * math.sqrt(2 / (192 * 9)), rel=0.03)
    assert not first["0.bias"].any()
    assert not first["1.bias"].any()
