"""What the models share: frozen, unknown keys refused; and the same for the plain dataclasses that YAML fills."""

from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field

from disback_ray.algorithms.noise import KarrasNoise, LogNormalNoise, NoiseLaw, TimestepNoise
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.algorithms.vp_schedule import VPSchedule


class Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def refuse_unknown_keys(*plain: Any) -> None:
    """Tells pydantic what dataclasses can't say themselves: the files that hold them know no pydantic."""
    for kind in plain:
        kind.__pydantic_config__ = ConfigDict(extra="forbid")


refuse_unknown_keys(KarrasNoise, LogNormalNoise, TimestepNoise, VPSchedule, OptimiserSettings)

Whole = Annotated[int, Ge(0)]
AnyNoise = Annotated[KarrasNoise | LogNormalNoise | TimestepNoise, Field(discriminator="kind")]


def check_order(noise: NoiseLaw, key: str) -> None:
    """Raises ValueError where the law's range is empty."""
    if isinstance(noise, KarrasNoise):
        if noise.sigma_min >= noise.sigma_max:
            raise ValueError(f"{key}: sigma_min {noise.sigma_min} is not below sigma_max {noise.sigma_max}")
        if noise.low >= noise.high:
            raise ValueError(f"{key}: low {noise.low} is not below high {noise.high}")
    if isinstance(noise, TimestepNoise) and not noise.low <= noise.last < noise.schedule.steps:
        raise ValueError(
            f"{key}: low {noise.low}, high {noise.last}: expected times of 0 … {noise.schedule.steps - 1}, in this order"
        )
