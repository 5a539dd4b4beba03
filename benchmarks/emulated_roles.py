"""Roles on devices that do nothing but take their time: a call takes as long as the work of its samples would, and hands on real arrays."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from disback_ray.actors import fake_score, generator
from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.path import Blend
from disback_ray.algorithms.ranks import ALONE, Ranks
from disback_ray.algorithms.records import Field, Sample, Score, Scored

SAMPLES = 64
"""A step's batch for each generator; cut into micro-batches."""


@dataclass(frozen=True)
class Work:
    """Seconds that a step of SAMPLES samples takes on one device of each kind."""

    forward: float = 0.100
    backward: float = 0.200
    target: float = 0.100
    score: float = 0.100
    fit: float = 0.300
    optimiser: float = 0.010

    def busiest(self, *, targets: int, fakes: int, generators: int, scale: int) -> float:
        """The busiest role's work for a step of scale · SAMPLES samples: no step takes less."""
        return max(
            scale * self.target / targets,
            scale * (self.score + self.fit) / fakes + self.optimiser,
            scale * (self.forward + self.backward) / generators + self.optimiser,
        )

    def times(self, factor: float) -> "Work":
        return Work(*(factor * getattr(self, name) for name in self.__dataclass_fields__))


@dataclass
class Device:
    """A role on a device that does nothing but take its time. numbers: float32 ones of a sample."""

    work: Work
    numbers: int = 0
    ranks: Ranks = ALONE

    def _works(self, seconds: float, batch: Batch) -> None:
        time.sleep(seconds * batch.size / SAMPLES)

    def _tensor(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(batch.size, self.numbers)

    def commit(self, step: int, *, update: int = 0) -> dict[str, float]:
        """All ranks meet here, as they do to add up their gradients."""
        time.sleep(self.work.optimiser)
        self.ranks.sum(1.0)
        return {}

    def begin(self, stage: str, *, node: int) -> dict[str, float]:
        return {}


class Generator(Device):
    def propose(self, batch: Batch) -> Sample:
        self._works(self.work.forward, batch)
        return Sample(batch, self._tensor(batch), None, batch.step)

    def descend(self, field: Field) -> dict[str, float]:
        self._works(self.work.backward, field.batch)
        return {}

    descend_all: Any = generator.Generator.descend_all
    """Which are those above."""


class Target(Device):
    def score(self, sample: Sample) -> Score:
        self._works(self.work.target, sample.batch)
        return Score(sample.batch, self._tensor(sample.batch), 0)


class FakeScore(Device):
    def score(self, sample: Sample) -> Scored:
        self._works(self.work.score, sample.batch)
        return Scored(sample.batch, 0)

    def difference(self, current: Scored, wanted: Score, left: None, *, node: int, blend: Blend | None) -> Field:
        return Field(current.batch, self._tensor(current.batch), 0.0)

    def fit(self, sample: Sample, *, update: int = 0) -> dict[str, float]:
        self._works(self.work.fit, sample.batch)
        return {}

    learn: Any = fake_score.FakeScore.learn
    """Its fits and its commit, which are those above."""
