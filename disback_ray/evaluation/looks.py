"""What says, between two steps, whether a run converges: on noise that is the same at every look, so that only the weights differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from disback_ray.algorithms.noise import NoiseLaw
from disback_ray.algorithms.records import Drawn, Probe
from disback_ray.evaluation.mismatch import mismatch_degree, probe_of, summarise

SIGMAS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Bands of noise: of the order of the data and around it. Those within the generator's own law are looked at."""
POINTS, IMAGES = 256, 32
"""Samples of a look: each is noised with every band's σ."""
PAIRED = 256
REFERENCES = 32
"""With fewer samples to compare with, the stable target field is only the noise that was drawn."""


def bands(law: NoiseLaw) -> tuple[float, ...]:
    """Those of SIGMAS that the law draws from; its middle where it has none of them."""
    low, high = law.sigma(torch.tensor([0.001, 0.999])).tolist()
    inside = tuple(sigma for sigma in SIGMAS if low <= sigma <= high)
    return inside or (round(float(law.sigma(torch.tensor(0.5))), 3),)


class Looks:
    """Looks at samples of the generator with the scores of the teacher and of s_φ. sigmas: the bands; seed: of the held noise."""

    def __init__(self, sigmas: Sequence[float], *, seed: int) -> None:
        self.sigmas = tuple(sigmas)
        self.seed = seed

    def probe(self, drawn: Drawn) -> Probe:
        """Where both scores are to be taken."""
        most = POINTS if drawn.x.ndim == 2 else IMAGES
        return probe_of(drawn.x.cpu(), _cpu(drawn.condition), sigmas=self.sigmas, seed=self.seed, most=most)

    def numbers(self, drawn: Drawn, probe: Probe, teacher: Tensor, fake: Tensor) -> dict[str, float]:
        """gap_σ: σ · root mean square of s_φ − s_θ at σ, which falls to 0 as the generator converges (Eq. 6).

        mismatch, fake_mismatch: Eq. (9) of the teacher and of s_φ on the generator's samples: s_φ should be the nearer one.
        spread: how different two samples are.
        """
        levels = self.levels(probe, teacher, fake).tolist()
        found = {f"gap_{sigma:g}": level for sigma, level in zip(self.sigmas, levels, strict=True)}
        return found | self.mismatches(drawn, probe, mismatch=teacher, fake_mismatch=fake) | {"spread": spread(drawn)}

    def levels(self, probe: Probe, wanted: Tensor, fake: Tensor) -> Tensor:
        """σ · root mean square of s_φ − s_wanted at each band's σ: [bands]."""
        gap = (fake - wanted).double().flatten(1).square().mean(1) * probe.sigma.double().cpu() ** 2
        return gap.reshape(len(self.sigmas), -1).mean(1).sqrt()

    def mismatches(self, drawn: Drawn, probe: Probe, **scores: Tensor) -> dict[str, float]:
        """Eq. (9) of each score on the drawn samples; nothing where they are too few for their own score."""
        if len(drawn.x) < REFERENCES:
            return {}
        x, classes = drawn.x.cpu(), _cpu(drawn.condition)
        return {
            name: summarise(mismatch_degree(score, probe, x, classes=classes), self.sigmas).degree
            for name, score in scores.items()
        }


def spread(drawn: Drawn) -> float:
    """The root mean square distance between two samples, per coordinate; where there are classes, between two of one class."""
    x = drawn.x[:PAIRED].detach().double().cpu().flatten(1)
    apart = torch.cdist(x, x).square() / x.shape[1]
    others = ~torch.eye(len(x), dtype=torch.bool)
    if drawn.condition is not None:
        classes = drawn.condition[:PAIRED].cpu()
        alike = others & (classes[:, None] == classes[None, :])
        others = alike if alike.any() else others
    return float(apart[others].mean().sqrt()) if others.any() else 0.0


def _cpu(condition: Tensor | None) -> Tensor | None:
    return None if condition is None else condition.cpu()
