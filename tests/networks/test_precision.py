"""bfloat16 against float32, and gradient checkpointing against none, on every kind of network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from disback_ray.algorithms.losses import score, score_of
from disback_ray.errors import ConfigError
from disback_ray.networks.checkpointing import checkpoint_gradients
from disback_ray.networks.precision import set_precision
from disback_ray.networks.spec import GeneratorSpec, MLPSpec

Make = Callable[[], nn.Module]
Noisy = tuple[Tensor, Tensor]


def gradients(denoiser: nn.Module, noisy: Noisy) -> dict[str, Tensor]:
    """Of a weighted sum over D(x_t, σ), by weight."""
    weights = torch.linspace(-1, 1, noisy[0].numel()).reshape(noisy[0].shape)
    (denoiser(*noisy) * weights).sum().backward()
    return {name: parameter.grad for name, parameter in denoiser.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("frozen", [True, False])
def test_bfloat16_gives_the_same_scores_within_its_rounding(make: Make, noisy: Noisy, frozen: bool) -> None:
    full, half = make(), make().requires_grad_(not frozen)
    set_precision(half, "bf16")
    matrices = [parameter for parameter in half.parameters() if parameter.ndim > 1]
    assert {parameter.dtype for parameter in matrices} == {torch.bfloat16 if frozen else torch.float32}
    assert {parameter.dtype for parameter in half.parameters() if parameter.ndim == 1} == {torch.float32}
    assert {buffer.dtype for buffer in half.buffers()} <= {torch.float32}, "frequencies and filters"
    with torch.no_grad():
        expected, found = (score_of(denoiser, *noisy, condition=None) for denoiser in (full, half))
    assert found.dtype == torch.float32
    error = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert 0 < error.max() < 0.03, error


def test_what_is_trained_has_float32_gradients_or_stays_in_bfloat16(make: Make, noisy: Noisy) -> None:
    full, masters, pure = make(), make(), make()
    set_precision(masters, "bf16")
    set_precision(pure, "bf16_stochastic")
    expected, found, rounded = (gradients(denoiser, noisy) for denoiser in (full, masters, pure))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert {tensor.dtype for tensor in rounded.values() if tensor.ndim > 1} == {torch.bfloat16}
    for other in (found, rounded):
        assert other.keys() == expected.keys()
        cosines = torch.stack([
            torch.cosine_similarity(other[name].float().flatten(), gradient.flatten(), dim=0)
            for name, gradient in expected.items()
            if gradient.norm() > 1e-3
        ])  # fmt: skip
        assert cosines.min() > 0.98


def test_at_a_small_sigma_the_score_is_taken_in_float32() -> None:
    """x_t = x_0 + 0.002 ε, D = x_0: bfloat16 can't tell x_t from D, and the score is -ε / 0.002."""
    x0, noise = 0.7 + torch.rand(2, 64, generator=torch.Generator().manual_seed(0)), torch.randn(2, 64)
    sigma = torch.full((2,), 0.002)
    x_t = x0 + 0.002 * noise
    torch.testing.assert_close(score(x0, x_t, sigma), -noise / 0.002, rtol=1e-2, atol=0.5)
    assert (x_t.bfloat16() == x0.bfloat16()).float().mean() > 0.3, "the difference is lost in bfloat16"
    exact = x0.bfloat16()
    given = score(exact, exact.float() + 0.002 * noise, sigma.bfloat16())
    assert given.dtype == torch.float32
    assert score(x0.double(), x_t.double(), sigma.double()).dtype == torch.float64
    torch.testing.assert_close(score(exact, (2 * exact), torch.ones(2, dtype=torch.bfloat16)), -exact.float())


def test_a_bfloat16_denoiser_keeps_small_noise_apart(make: Make, noisy: Noisy) -> None:
    """D's own conversion too: at σ = 0.004 the score is still that of float32 within a few per cent."""
    full, half = make(), make().requires_grad_(False)
    set_precision(half, "bf16")
    sigma = torch.full((4,), 0.004)
    x_t = 0.5 + 0.004 * torch.randn(noisy[0].shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = (score_of(denoiser, x_t, sigma, condition=None) for denoiser in (full, half))
    assert ((found - expected).norm() / expected.norm()) < 0.05


def test_float32_is_the_default_and_leaves_all_as_it_is(make: Make, noisy: Noisy) -> None:
    one, other = make(), make()
    set_precision(other, "fp32")
    with torch.no_grad():
        assert torch.equal(one(*noisy), other(*noisy))


def test_what_is_no_denoiser_is_refused() -> None:
    student = GeneratorSpec(MLPSpec(width=8), (2,), 0, 1.0).build()
    with pytest.raises(ConfigError, match="precision: bf16: only denoisers can"):
        set_precision(student, "bf16")
    with pytest.raises(ConfigError, match="checkpointing: true: the network has no blocks"):
        checkpoint_gradients(student)


# -- gradient checkpointing --


WAYS = (True, "selective")
WITHOUT_BRANCHES = ("resnet-mlp", "diffusers")
"""What can be checkpointed whole alone."""


@pytest.fixture(params=WAYS, ids=["whole", "selective"])
def how(request: pytest.FixtureRequest, kind: str) -> Any:
    if request.param == "selective" and kind in WITHOUT_BRANCHES:
        pytest.skip("its blocks have no branches that end in a convolution")
    return request.param


def test_checkpointed_gradients_are_the_same_bit_for_bit(make: Make, noisy: Noisy, how: Any) -> None:
    plain, lean = make(), make()
    names = list(lean.state_dict())
    checkpoint_gradients(lean, how)
    assert list(lean.state_dict()) == names
    expected, found = gradients(plain, noisy), gradients(lean, noisy)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(plain(*noisy), lean(*noisy))


def held(denoiser: nn.Module, noisy: Noisy) -> int:
    """Bytes that the graph keeps, by torch's allocator."""
    denoiser(*noisy)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        out = denoiser(*noisy)
    assert out.requires_grad
    return sum(event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")


def test_it_holds_less_between_forward_and_backward(make: Make, noisy: Noisy, how: Any) -> None:
    plain, lean = make(), make()
    checkpoint_gradients(lean, how)
    assert held(lean, noisy) < 0.6 * held(plain, noisy)


class Convolutions(TorchDispatchMode):
    """Counts those that are computed, but for filters, and for the 1 × 1 ones that queries, keys and values are made by."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            weight, groups = args[1], args[8]
            self.count += groups == 1 and weight.shape[0] != 3 * weight.shape[1]
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["adm", "consistency", "ddpmpp", "ncsnpp"])
def test_only_whole_blocks_compute_their_convolutions_again(make: Make, noisy: Noisy) -> None:
    counts = {}
    for how in (False, *WAYS):
        denoiser = make()
        if how:
            checkpoint_gradients(denoiser, how)
        with Convolutions() as found:
            gradients(denoiser, noisy)
        counts[how] = found.count
    assert counts["selective"] == counts[False]
    assert counts[True] > 1.5 * counts[False]


@pytest.mark.parametrize("kind", WITHOUT_BRANCHES)
def test_what_can_only_be_checkpointed_whole_says_so(make: Make) -> None:
    with pytest.raises(ConfigError, match="checkpointing: selective: the network has no blocks"):
        checkpoint_gradients(make(), "selective")


def test_both_together(make: Make, noisy: Noisy, how: Any) -> None:
    plain, lean = make(), make()
    for denoiser in (plain, lean):
        set_precision(denoiser, "bf16")
    checkpoint_gradients(lean, how)
    expected, found = gradients(plain, noisy), gradients(lean, noisy)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
