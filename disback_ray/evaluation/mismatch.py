"""The mismatch degree: how far a teacher's score is from the true score of the samples that it is asked about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from disback_ray.algorithms.noise import Batch, per_sample
from disback_ray.algorithms.records import Probe

ROWS, COLUMNS = 512, 2048
"""Noisy samples, and references, whose distances are held at a time."""
PROBED = 512
TAG = "mismatch"


def stable_target_score(
    x_t: Tensor, sigma: Tensor, references: Tensor, *, classes: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The score at x_t of a set of samples under noise: Σ_i p_i (x_i − x_t) / σ², Eqs. (13)–(17) with α = 1 (Xu et al. 2022).

    p_i = softmax_i(−‖x_t − x_i‖² / 2σ²), taken in float64 over parts of the references, with a running maximum: memory is that of one
    part. x_t: [B, ...]; sigma: [B]; references: [N, ...]. classes: of x_t [B] and of the references [N], where only those of one
    class count for each other. Returns float64 [B, ...].
    """
    parts = []
    known = references.detach().double().flatten(1)
    for start in range(0, len(x_t), ROWS):
        x, level = x_t[start : start + ROWS].detach().double().flatten(1), sigma[start : start + ROWS].double()
        own = None if classes is None else (classes[0][start : start + ROWS], classes[1])
        parts.append((_posterior_mean(x, level, known, own) - x) / level[:, None] ** 2)
    return torch.cat(parts).reshape(x_t.shape)


def _posterior_mean(x: Tensor, sigma: Tensor, references: Tensor, classes: tuple[Tensor, Tensor] | None) -> Tensor:
    """Σ_i p_i x_i: [B, D]."""
    highest = torch.full((len(x), 1), -math.inf, dtype=torch.float64, device=x.device)
    mass, total = torch.zeros_like(highest), torch.zeros_like(x)
    for start in range(0, len(references), COLUMNS):
        part = references[start : start + COLUMNS]
        logits = -torch.cdist(x, part).square() / (2 * sigma[:, None] ** 2)
        if classes is not None:
            logits = logits.masked_fill(classes[0][:, None] != classes[1][None, start : start + COLUMNS], -math.inf)
        top = torch.maximum(highest, logits.amax(dim=1, keepdim=True))
        safe = top.masked_fill(top == -math.inf, 0.0)  # no reference of the class so far
        weights, before = (logits - safe).exp(), (highest - safe).exp()
        mass, total, highest = mass * before + weights.sum(1, keepdim=True), total * before + weights @ part, top
    return total / mass


def mismatch_degree(
    score: Tensor, probe: Probe, references: Tensor, *, classes: Tensor | None = None, weighted: bool = True
) -> Tensor:
    """Eq. (9) for each noisy sample: σ² ‖s_θ(x_t) − s_real(x_t)‖², the squared norm over all coordinates: float64 [B].

    s_real is the score of the assessed samples themselves, `references`, by the stable target field. score: s_θ at the probe, [B, ...];
    classes: of the references, where the probe has classes. weighted: by σ², without which the smallest σ decides alone.
    """
    both = None if probe.condition is None or classes is None else (probe.condition, classes)
    error = score.double() - stable_target_score(probe.x_t, probe.sigma, references, classes=both)
    weight = probe.sigma.double() ** 2 if weighted else torch.ones_like(probe.sigma, dtype=torch.float64)
    return weight * error.flatten(1).square().sum(1)


def probe_of(samples: Tensor, condition: Tensor | None, *, sigmas: Sequence[float], seed: int, most: int = PROBED) -> Probe:
    """Noise of each of the levels on the first `most` samples: x_t = x_0 + σ ε, keyed, so that every look sees the same ε.

    samples: [N, ...] → [len(sigmas) · min(N, most), ...], level after level.
    """
    chosen = samples[:most]
    batch = Batch(seed, TAG, 0, 0, len(chosen))
    noise = [batch.normal(f"noise/{index}", tuple(chosen.shape[1:])).to(chosen) for index in range(len(sigmas))]
    levels = torch.tensor(sigmas, dtype=chosen.dtype, device=chosen.device).repeat_interleave(len(chosen))
    x_t = torch.cat([chosen] * len(sigmas)) + per_sample(levels, chosen) * torch.cat(noise)
    return Probe(x_t, levels, None if condition is None else torch.cat([condition[:most]] * len(sigmas)))


@dataclass(frozen=True)
class Mismatch:
    """degree: Eq. (9), the mean over levels of noise; by_sigma: of each of them."""

    degree: float
    by_sigma: dict[float, float]


def summarise(values: Tensor, sigmas: Sequence[float]) -> Mismatch:
    """values: of `mismatch_degree` for a probe of these levels."""
    means = values.reshape(len(sigmas), -1).mean(dim=1).tolist()
    return Mismatch(sum(means) / len(means), dict(zip(sigmas, means, strict=True)))


def measure_mismatch(
    score: Callable[[Probe], Tensor], samples: Tensor, condition: Tensor | None,
    *, sigmas: Sequence[float], seed: int = 0, most: int = PROBED,
) -> Mismatch:  # fmt: skip
    """The mismatch of a score on a set of samples, at each of the levels. samples: [N, ...], all of them references."""
    probe = probe_of(samples, condition, sigmas=sigmas, seed=seed, most=most)
    return summarise(mismatch_degree(score(probe), probe, samples, classes=condition), sigmas)
