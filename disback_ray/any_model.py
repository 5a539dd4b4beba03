"""A teacher or a run: whatever lies there."""

from pathlib import Path

from disback_ray.errors import ConfigError
from disback_ray.model import Model
from disback_ray.networks.imported import Scalings
from disback_ray.result import load_run
from disback_ray.teacher_model import is_teacher, load_teacher
from disback_ray.teachers.drawing import (
    Sampler,
)


def load_model(
    where: str | Path,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    guidance: float | None = None,
    scalings: Scalings | None = None,
    trust_modules: bool = False,
) -> Model:
    """A teacher, or a run. Raises what load_teacher and load_run raise, and ConfigError for what is only a teacher's where it is a run."""
    if is_teacher(where):
        return load_teacher(
            where, steps=steps, sampler=sampler, guidance=guidance, scalings=scalings, trust_modules=trust_modules
        )
    for name, value in (("steps", steps), ("sampler", sampler), ("guidance", guidance), ("scalings", scalings)):
        if value is not None:
            raise ConfigError(f"--{name} {value}: a run's generator draws in one step, unguided; {name} is a teacher's")
    return load_run(where, trust_modules=trust_modules)
