"""The networks of the paper's two-dimensional experiments (App. E.1): a ResNet MLP that denoises, a plain MLP that generates."""

import math

import torch
from torch import Tensor, nn


class ResNetMLP(nn.Module):
    """Residual MLP F(x, c_noise) for points, to be wrapped in EDM's preconditioning. x: [B, D]; noise_labels: [B] → [B, D].

    octaves: of Fourier features of x beside it, for modes that are narrow against their distance (Tancik et al. 2020).
    """

    frequencies: Tensor
    places: Tensor

    def __init__(self, *, dimension: int, width: int, blocks: int, octaves: int = 0, label_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0, math.log(32), width // 2, device="cpu")), persistent=False
        )
        self.register_buffer("places", torch.tensor([math.pi / 2 * 2.0**octave for octave in range(octaves)]), persistent=False)
        self.enter = nn.Linear(dimension * (1 + 2 * octaves), width)
        self.noise = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.leave = nn.Linear(width, dimension)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        angles = noise_labels[:, None] * self.frequencies
        embedding = self.noise(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.label is not None and class_labels is not None:
            embedding = embedding + self.label(class_labels)
        turns = (x[:, :, None] * self.places).flatten(1)
        hidden = self.enter(torch.cat([x, turns.cos(), turns.sin()], dim=1))
        for block in self.blocks:
            hidden = hidden + block(hidden + embedding)
        out: Tensor = self.leave(nn.functional.silu(hidden))
        return out


class MLP(nn.Sequential):
    """Plain MLP of points to points, [B, D] → [B, D]: the student of App. E.1 (2-96-96-96-2 by default)."""

    def __init__(self, *, dimension: int, width: int, hidden_layers: int) -> None:
        layers: list[nn.Module] = [nn.Linear(dimension, width), nn.SiLU()]
        for _ in range(hidden_layers - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        super().__init__(*layers, nn.Linear(width, dimension))
