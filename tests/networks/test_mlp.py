"""The networks of App. E.1: their sizes, what each input does, and that samples don't meet."""

import pytest
import torch
from torch import nn

from disback_ray.networks.mlp import MLP, ResNetMLP


def seeded(**settings: int) -> ResNetMLP:
    """With every weight random: the last layer begins at zero."""
    generator = torch.Generator().manual_seed(0)
    network = ResNetMLP(dimension=2, width=16, blocks=2, **settings)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


POINTS = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
NOISE = torch.linspace(-1.5, 1, 5)


def test_the_student_is_2_96_96_96_2() -> None:
    layers = [layer for layer in MLP(dimension=2, width=96, hidden_layers=3) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(2, 96), (96, 96), (96, 96), (96, 2)]


@pytest.mark.parametrize("hidden_layers", [1, 2, 4])
def test_between_its_linear_layers_the_student_bends(hidden_layers: int) -> None:
    network = MLP(dimension=3, width=8, hidden_layers=hidden_layers)
    assert [type(layer) for layer in network] == [nn.Linear, nn.SiLU] * hidden_layers + [nn.Linear]
    assert network(torch.ones(4, 3)).shape == (4, 3)


@torch.no_grad()
def test_the_denoiser_starts_as_a_constant() -> None:
    """F = its last bias: behind EDM's preconditioning that is the best linear guess, to begin with."""
    network = ResNetMLP(dimension=2, width=16, blocks=2)
    torch.testing.assert_close(network(POINTS, NOISE), network.leave.bias.expand(5, 2))


@torch.no_grad()
def test_a_block_adds_to_what_comes_in() -> None:
    """Blocks whose last layer is zero change nothing: one, two or none of them give the same."""
    network = seeded()
    for block in network.blocks:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    with_blocks = network(POINTS, NOISE)
    network.blocks = nn.ModuleList()
    torch.testing.assert_close(network(POINTS, NOISE), with_blocks)


@torch.no_grad()
def test_each_row_depends_on_its_own_point_noise_and_class() -> None:
    network = seeded(label_dim=3)
    classes = torch.eye(3)[[0, 1, 2, 0, 1]]
    together = network(POINTS, NOISE, classes)
    for i in range(5):
        torch.testing.assert_close(network(POINTS[i : i + 1], NOISE[i : i + 1], classes[i : i + 1])[0], together[i])
    changed = [
        network(POINTS + 0.1 * torch.eye(5, 2), NOISE, classes),
        network(POINTS, NOISE + torch.tensor([0.1, 0.1, 0, 0, 0]), classes),
        network(POINTS, NOISE, classes.index_copy(0, torch.tensor([0, 1]), torch.eye(3)[[1, 2]])),
    ]
    for other in changed:
        assert (other != together).any(1).tolist() == [True, True, False, False, False]


@torch.no_grad()
def test_no_class_is_the_zero_row() -> None:
    network = seeded(label_dim=3)
    torch.testing.assert_close(network(POINTS, NOISE, torch.zeros(5, 3)), network(POINTS, NOISE, None))


def test_every_weight_is_trained() -> None:
    network = seeded(label_dim=3)
    network(POINTS, NOISE, torch.eye(3)[[0, 1, 2, 0, 1]]).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_it_computes_with_is_rebuilt_and_not_saved() -> None:
    assert set(ResNetMLP(dimension=2, width=8, blocks=1).state_dict()) == {
        name for name, _ in ResNetMLP(dimension=2, width=8, blocks=1).named_parameters()
    }
