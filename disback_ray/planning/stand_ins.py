"""In place of the roles that aren't measured: they give tensors of the right shapes, and compute nothing."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from disback_ray.algorithms.noise import Batch
from disback_ray.algorithms.records import Field, Sample, Score, Scored, WireDtype, rounded
from disback_ray.networks.spec import DenoiserSpec


@dataclass(frozen=True)
class StandIn:
    """Any role, but for what one of a kind gives in answer to score()."""

    spec: DenoiserSpec
    wire: WireDtype

    def _numbers(self, batch: Batch) -> Tensor:
        return rounded(torch.zeros(batch.size, *self.spec.shape), self.wire)

    def propose(self, batch: Batch) -> Sample:
        """As a generator whose version is the step's."""
        condition = batch.integers("class", self.spec.classes) if self.spec.classes else None
        return Sample(batch, self._numbers(batch), condition, batch.step)

    def difference(self, current: Scored, *_: Any, **__: Any) -> Field:
        return Field(current.batch, self._numbers(current.batch), 1.0)

    def _nothing(self, *_: Any, **__: Any) -> dict[str, float]:
        return {}

    descend_all = learn = _nothing


@dataclass(frozen=True)
class TargetStandIn(StandIn):
    """The teacher."""

    def score(self, sample: Sample) -> Score:
        return Score(sample.batch, self._numbers(sample.batch), 0)


@dataclass(frozen=True)
class FakeScoreStandIn(StandIn):
    def score(self, sample: Sample) -> Scored:
        return Scored(sample.batch, sample.generator_version)
