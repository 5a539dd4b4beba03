"""The networks of the paper's two-dimensional experiments (App. E.1): a ResNet MLP that denoises, a plain MLP that generates."""

import math

import torch
from torch import Tensor, nn


class ResNetMLP(nn.Module):
    """Residual MLP F(x, c_noise) for points, to be wrapped in EDM's preconditioning. x: [B, D]; noise_labels: [B] → [B, D]."""

    frequencies: Tensor

    def __init__(self, *, dimension: int, width: int, blocks: int, label_dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(32), width // 2)), persistent=False)
        self.enter = nn.Linear(dimension, width)
        self.noise = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Linear(label_dim, width, bias=False) if label_dim else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, dimension)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        angles = noise_labels[:, None] * self.frequencies
        embedding = self.noise(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.label is not None and class_labels is not None:
            embedding = embedding + self.label(class_labels)
        hidden = self.enter(x)
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
