"""LoRA on every kind of network: nothing changes at first, only the adapter ever does, and it is what W + s B A is."""

import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disback_ray import hugging_face
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.networks.layers import Conv2d
from disback_ray.networks.lora import LoRA, adapter_of, add_lora, load_adapter
from disback_ray.networks.mlp import MLP
from disback_ray.networks.precision import set_precision
from disback_ray.storage import digest

Make = Callable[[], nn.Module]
Noisy = tuple[Tensor, Tensor]
SMALL = LoRA(rank=2)


def base_of(denoiser: nn.Module) -> dict[str, Tensor]:
    """The frozen weights and buffers, by the names that they had before."""
    found = {name: tensor for name, tensor in denoiser.state_dict().items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): tensor for name, tensor in found.items()}


def trained(make: Make, noisy: Noisy, lora: LoRA = SMALL) -> nn.Module:
    """With an adapter that has made five steps."""
    denoiser = make()
    add_lora(denoiser, lora)
    optimiser = torch.optim.Adam([p for p in denoiser.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        denoiser(*noisy).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return denoiser


def test_a_new_adapter_changes_nothing_and_training_changes_nothing_else(make: Make, noisy: Noisy) -> None:
    plain, fresh, moved = make(), make(), trained(make, noisy)
    add_lora(fresh, SMALL)
    with torch.no_grad():
        assert torch.equal(fresh(*noisy), plain(*noisy))
        assert not torch.allclose(moved(*noisy), plain(*noisy), rtol=1e-2)
    assert digest(base_of(moved)) == digest(plain.state_dict()), "bit for bit"
    idle = {name for name, weight in adapter_of(moved).items() if ".lora_B" in name and not weight.any()}
    assert all("map_augment" in name for name in idle), "which nothing ever calls"
    assert {p.requires_grad for name, p in fresh.named_parameters() if ".lora_" not in name} == {False}
    assert not fresh.training


def test_every_layer_has_one_and_the_same_each_time(make: Make) -> None:
    plain, one, other = make(), make(), make()
    add_lora(one, SMALL)
    torch.rand(3)
    add_lora(other, SMALL)
    assert digest(adapter_of(one)) == digest(adapter_of(other))
    layers = [
        m for m in plain.modules() if isinstance(m, nn.Linear | nn.Conv2d) or (isinstance(m, Conv2d) and m.weight is not None)
    ]
    assert len(adapter_of(one)) == 2 * len(layers)


def test_an_adapter_is_small_goes_round_and_another_is_refused(make: Make, noisy: Noisy) -> None:
    moved, other = trained(make, noisy, LoRA(rank=1)), make()
    add_lora(other, LoRA(rank=1))
    weights = adapter_of(moved)
    assert sum(w.numel() for w in weights.values()) < 0.35 * sum(w.numel() for w in base_of(moved).values())
    load_adapter(other, weights, where="here")
    with torch.no_grad():
        assert torch.equal(other(*noisy), moved(*noisy))
    wider = make()
    add_lora(wider, LoRA(rank=3))
    before = digest(adapter_of(wider))
    with pytest.raises(CheckpointError, match=r"here: the adapter doesn't fit: .* has the shape"):
        load_adapter(wider, weights, where="here")
    weights.popitem()
    with pytest.raises(CheckpointError, match="here: the adapter doesn't fit: 1 weights are missing"):
        load_adapter(other, weights, where="here")
    assert digest(adapter_of(wider)) == before


@pytest.mark.parametrize("how", ["plain", "up", "down", "filter_last"])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_our_convolution_s_adapter_is_a_change_of_its_weights(how: str, taps: tuple[int, ...]) -> None:
    """conv(x; W) + α/r B(A(x)) = conv(x; W + α/r B A), also where it resamples."""
    options = {"up": how == "up", "down": how in ("down", "filter_last"), "filter_last": how == "filter_last"}
    net = nn.Sequential(Conv2d(4, 6, kernel=3, resample_filter=taps, **options))
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 8, 8)
    merged = Conv2d(4, 6, kernel=3, resample_filter=taps, **options)
    merged.load_state_dict(net[0].state_dict())
    add_lora(net, LoRA(rank=2, alpha=3.0))
    a, b = (weight for weight in adapter_of(net).values())
    nn.init.normal_(b)
    with torch.no_grad():
        merged.weight += 1.5 * torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
        torch.testing.assert_close(net(x), merged(x), rtol=1e-4, atol=1e-4)


def test_alpha_over_rank_is_the_factor() -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    add_lora(net, LoRA(rank=2, alpha=8.0))
    a, b = adapter_of(net).values()
    b.fill_(0.5)
    x = torch.randn(4, 3)
    expected = F.linear(x, net[0].base_layer.weight + 4 * b @ a, net[0].base_layer.bias)
    torch.testing.assert_close(net(x), expected)


def test_targets_are_the_ends_of_names() -> None:
    net = MLP(dimension=2, width=4, hidden_layers=2)
    add_lora(net, LoRA(rank=1, targets=("0", "4")))
    assert {name.split(".")[0] for name in adapter_of(net)} == {"0", "4"}
    with pytest.raises(ConfigError, match=r"lora.targets: no layer's name ends with 'to_q'; names are such as 2"):
        add_lora(MLP(dimension=2, width=4, hidden_layers=2), LoRA(rank=1, targets=("0", "to_q")))
    with pytest.raises(ConfigError, match="no linear or convolutional layers"):
        add_lora(nn.Sequential(nn.LayerNorm(3)), SMALL)


def test_a_layer_whose_forward_nobody_calls_gets_none() -> None:
    net = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 1), "line": nn.Linear(4, 4), "deep": nn.Conv2d(4, 4, 3, groups=4)})
    add_lora(net, LoRA(rank=1))
    assert {name.split(".")[0] for name in adapter_of(net)} == {"line"}


def test_the_base_can_be_in_bfloat16_below_a_float32_adapter(make: Make, noisy: Noisy) -> None:
    full, half = trained(make, noisy), make()
    add_lora(half, SMALL)
    load_adapter(half, adapter_of(full), where="here")
    set_precision(half, "bf16")
    kinds = {".lora_" in name: parameter.dtype for name, parameter in half.named_parameters() if parameter.ndim > 1}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    with torch.no_grad():
        expected, found = full(*noisy), half(*noisy)
    assert 0 < (found - expected).norm() / expected.norm() < 0.05
    half(*noisy).sum().backward()
    assert {parameter.grad.dtype for parameter in half.parameters() if parameter.grad is not None} == {torch.float32}


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "_imported", hugging_face._imported.__wrapped__)
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)

    class NotThere:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == "peft":
                raise ModuleNotFoundError(f"No module named {name!r}", name="peft")

    monkeypatch.setattr(sys, "meta_path", [NotThere(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"peft is not installed, .*: pip install 'disback-ray\[diffusers\]'"):
        add_lora(nn.Sequential(nn.Linear(2, 2)), SMALL)


def test_identity_tells_bases_ranks_and_targets_apart() -> None:
    said = [
        LoRA(rank=2).identity("a"),
        LoRA(rank=2).identity("b"),
        LoRA(rank=3).identity("b"),
        LoRA(rank=3, alpha=1.0).identity("b"),
        LoRA(rank=3, alpha=1.0, targets=("to_q",)).identity("b"),
    ]
    assert all(one != other for one, other in pairwise(said))
    assert said[-1]["targets"] == ["to_q"], "as JSON has it"
