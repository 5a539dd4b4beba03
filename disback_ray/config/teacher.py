"""recipe.yaml's teacher: one that is trained on the recipe's data, or one from a file."""

from typing import Annotated, Any

from annotated_types import Ge, Le, Lt
from pydantic import Discriminator, Field, Tag, model_validator

from disback_ray.algorithms.noise import LogNormalNoise, Positive
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config.base import AnyNoise, Frozen, refuse_unknown_keys
from disback_ray.networks.imported import Scalings
from disback_ray.networks.spec import Count, DDPMppSpec, ResNetMLPSpec
from disback_ray.teachers.checkpoint import Expected, Format

refuse_unknown_keys(Expected, DDPMppSpec, ResNetMLPSpec)

AnyNetwork = Annotated[DDPMppSpec | ResNetMLPSpec, Field(discriminator="kind")]


class TeacherTraining(Frozen):
    """How the teacher is trained on the recipe's data (EDM's loss, Karras et al. 2022, Eq. 8). seed: its own, whatever the run's."""

    steps: Count
    batch: Count
    optimiser: OptimiserSettings
    ema: Annotated[float, Ge(0), Lt(1)] = 0.995
    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.0
    noise: AnyNoise = LogNormalNoise()
    seed: int = 0


class Teacher(Frozen):
    """One that is trained on the recipe's data.

    exact_score: the last target is the mixture's own score; the trained network is then only what s_φ and the path start from.
    """

    network: AnyNetwork
    sigma_data: Positive = 0.5
    training: TeacherTraining
    exact_score: bool = False
    sampling_steps: Annotated[int, Ge(2)] = 18


class TeacherFile(Frozen):
    """One from a file: EDM's .pkl, or openai's .pt of a consistency model, whose scalings the file doesn't tell.

    sampling_steps: of a diffusion model's, to look at; a consistency model draws in one.
    """

    checkpoint: str
    format: Format
    scalings: Scalings = "boundary"
    expects: Expected = Expected()
    sampling_steps: Annotated[int, Ge(2)] = 18

    @model_validator(mode="after")
    def _check(self) -> "TeacherFile":
        if self.format == "edm" and self.scalings != "boundary":
            raise ValueError(f"scalings: {self.scalings}: an EDM file brings its own; leave it out")
        if self.format == "consistency" and self.expects.network is not None:
            raise ValueError(f"expects.network: {self.expects.network}: consistency files all hold openai's U-Net; leave it out")
        return self

    @property
    def draws_in_one_step(self) -> bool:
        return self.format == "consistency" and self.scalings == "boundary"


def _teacher_kind(teacher: Any) -> str:
    """The union's member that a teacher's keys are meant for."""
    from_file = isinstance(teacher, TeacherFile) or (
        isinstance(teacher, dict) and not {"checkpoint", "format"}.isdisjoint(teacher)
    )
    return "TeacherFile" if from_file else "Teacher"


AnyTeacher = Annotated[
    Annotated[Teacher, Tag("Teacher")] | Annotated[TeacherFile, Tag("TeacherFile")], Discriminator(_teacher_kind)
]
