"""recipe.yaml's teacher: one that is trained on the recipe's data, one from a file, or anybody's module."""

import math
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Lt, MinLen
from pydantic import BaseModel, Discriminator, Field, JsonValue, Tag, model_validator

from disback_ray.algorithms.noise import LogNormalNoise, Positive
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config.base import AnyNoise, Frozen, Whole, refuse_unknown_keys
from disback_ray.config.networks import AnyNetwork
from disback_ray.networks.imported import Scalings
from disback_ray.networks.module import ModuleSpec, Prediction
from disback_ray.networks.spec import Count, DenoiserSpec, Samples
from disback_ray.teachers.checkpoint import Expected, Format
from disback_ray.teachers.guidance import USUAL
from disback_ray.teachers.text_teacher import ExpectedPipeline

refuse_unknown_keys(Expected, ExpectedPipeline)

TEXT = "stable-diffusion"

NAMES = {
    "edm": "an EDM file",
    "consistency": "a consistency file",
    "diffusers": "a folder of diffusers'",
    "denoiser": "a folder of ours",
}


class TeacherTraining(Frozen):
    """How the teacher is trained on the recipe's data (EDM's loss, Karras et al. 2022, Eq. 8). seed: its own, whatever the run's."""

    steps: Count
    batch: Samples
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

    Or, with format `diffusers`, from a folder of diffusers' or an id of the Hugging Face Hub: a DDPM or DDIM; with `denoiser`, one of
    `disback-ray teacher train`. trust_modules: that may name a module, whose code is then run.
    sampling_steps: of a diffusion model's, to look at; a consistency model draws in one.
    """

    checkpoint: str
    format: Format
    scalings: Scalings = "boundary"
    expects: Expected = Expected()
    trust_modules: bool = False
    sampling_steps: Annotated[int, Ge(2)] = 18

    @model_validator(mode="after")
    def _check(self) -> "TeacherFile":
        if self.format != "consistency" and self.scalings != "boundary":
            raise ValueError(f"scalings: {self.scalings}: {NAMES[self.format]} brings its own; leave it out")
        if self.format != "edm" and self.expects.network is not None:
            raise ValueError(
                f"expects.network: {self.expects.network}: {NAMES[self.format]} has none of EDM's networks; leave it out"
            )
        if self.trust_modules and self.format != "denoiser":
            raise ValueError(f"trust_modules: true: {NAMES[self.format]} names no modules; leave it out")
        return self

    @property
    def draws_in_one_step(self) -> bool:
        return self.format == "consistency" and self.scalings == "boundary"


class TeacherModule(Frozen):
    """Anybody's torch.nn.Module: what `module:factory` returns, given kwargs, with the weights of a safetensors file or its own.

    prediction: what its forward(x, sigma, condition) gives; shape: one sample's; classes: 0 where unconditional.
    """

    module: str
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    prediction: Prediction = "x0"
    weights: str | None = None
    shape: Annotated[tuple[Count, ...], MinLen(1)]
    classes: Whole = 0
    sigma_data: Positive = 0.5
    sampling_steps: Annotated[int, Ge(2)] = 18

    @property
    def spec(self) -> DenoiserSpec:
        network = ModuleSpec(self.module, dict(self.kwargs), self.prediction)
        return DenoiserSpec(network, self.shape, self.classes, self.sigma_data)

    @model_validator(mode="after")
    def _check(self) -> "TeacherModule":
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape: {list(self.shape)}: [channels, height, width] of images, or [2] of points")
        return self


class TextTeacher(Frozen):
    """A pipeline of Stable Diffusion 1.5, 2 or XL: a folder as diffusers saves them, or an id of the Hugging Face Hub.

    guidance: of the target's scores (classifier-free), 1 for none; path_guidance: of the path's nodes', None for the same.
    sampling_steps: of DDIM, to look at.
    """

    checkpoint: str
    format: Literal["stable-diffusion"]
    guidance: Annotated[float, Ge(1), Lt(math.inf)] = USUAL
    path_guidance: Annotated[float, Ge(1), Lt(math.inf)] | None = None
    expects: ExpectedPipeline = ExpectedPipeline()
    sampling_steps: Annotated[int, Ge(2)] = 50
    draws_in_one_step: ClassVar[bool] = False

    @property
    def nodes_guidance(self) -> float:
        """Of the path's nodes."""
        return self.guidance if self.path_guidance is None else self.path_guidance


def _teacher_kind(teacher: Any) -> str:
    """The union's member that a teacher's keys are meant for."""
    if isinstance(teacher, BaseModel):
        return type(teacher).__name__
    keys = set(teacher) if isinstance(teacher, dict) else set()
    if "module" in keys:
        return "TeacherModule"
    if isinstance(teacher, dict) and teacher.get("format") == TEXT:
        return "TextTeacher"
    return "TeacherFile" if {"checkpoint", "format"} & keys else "Teacher"


AnyTeacher = Annotated[
    Annotated[Teacher, Tag("Teacher")]
    | Annotated[TeacherFile, Tag("TeacherFile")]
    | Annotated[TextTeacher, Tag("TextTeacher")]
    | Annotated[TeacherModule, Tag("TeacherModule")],
    Discriminator(_teacher_kind),
]
