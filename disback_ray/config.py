"""recipe.yaml and cluster.yaml → frozen models. Unknown keys are refused, with the nearest known one named."""

import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from disback_ray.algorithms import path
from disback_ray.algorithms.losses import Weighting
from disback_ray.algorithms.noise import KarrasNoise, LogNormalNoise, Positive
from disback_ray.algorithms.optimiser import OptimiserSettings
from disback_ray.config_errors import explain, nearest
from disback_ray.data.sources import DigitsData, GridData, NoData, PointsData, RingData
from disback_ray.errors import ConfigError
from disback_ray.evaluation.digit_judge import FEATURES
from disback_ray.networks.imported import Scalings
from disback_ray.networks.spec import Count, DDPMppSpec, MLPSpec, ResNetMLPSpec
from disback_ray.teachers.checkpoint import Expected, Format

for _plain in (
    KarrasNoise,
    LogNormalNoise,
    OptimiserSettings,
    DigitsData,
    GridData,
    RingData,
    NoData,
    Expected,
    DDPMppSpec,
    MLPSpec,
    ResNetMLPSpec,
):
    _plain.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[union-attr]  # those files know no pydantic

Whole = Annotated[int, Ge(0)]
AnyNoise = Annotated[KarrasNoise | LogNormalNoise, Field(discriminator="kind")]
AnyData = Annotated[DigitsData | RingData | GridData | NoData, Field(discriminator="kind")]
AnyNetwork = Annotated[DDPMppSpec | ResNetMLPSpec, Field(discriminator="kind")]


class _Frozen(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class RoleResources(_Frozen):
    """What one role gets. gpus None: one each where the cluster has enough, an equal share where not, 0 where there are none."""

    gpus: Annotated[float, Ge(0), Lt(math.inf)] | None = None
    cpus: Annotated[float, Gt(0), Lt(math.inf)] = 0.25
    accelerator: str | None = None
    replicas: Count = 1
    share: Literal["teacher", "path_node", "fake_score", "generator", "evaluator"] | None = Field(
        default=None, validation_alias="with", serialization_alias="with"
    )

    @property
    def threads(self) -> int:
        """Of torch, in the role's process."""
        return max(1, int(self.cpus))


class Roles(_Frozen):
    """One block a role. teacher_trainer: the workers of Ray Train, `replicas` of them, before the cast is placed."""

    teacher: RoleResources = RoleResources()
    path_node: RoleResources = RoleResources()
    fake_score: RoleResources = RoleResources()
    generator: RoleResources = RoleResources()
    evaluator: RoleResources = RoleResources(gpus=0)
    teacher_trainer: RoleResources = RoleResources(cpus=1)

    def by_name(self) -> dict[str, RoleResources]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="after")
    def _check(self) -> "Roles":
        for name in ("fake_score", "generator", "evaluator"):
            if getattr(self, name).replicas != 1:
                raise ValueError(f"{name}.replicas: {getattr(self, name).replicas}; this role holds the weights: 1")
        return self


class ClusterConfig(_Frozen):
    """cluster.yaml: where Ray is, what each role gets, where runs are stored."""

    address: str = "local"
    storage: str = "runs"
    placement_timeout: Positive = 120.0
    recipe: str | None = None
    roles: Roles = Roles()


class TeacherTraining(_Frozen):
    """How the teacher is trained on the recipe's data (EDM's loss, Karras et al. 2022, Eq. 8). seed: its own, whatever the run's."""

    steps: Count
    batch: Count
    optimiser: OptimiserSettings
    ema: Annotated[float, Ge(0), Lt(1)] = 0.995
    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.0
    noise: AnyNoise = LogNormalNoise()
    seed: int = 0


class Teacher(_Frozen):
    """One that is trained on the recipe's data.

    exact_score: the last target is the mixture's own score; the trained network is then only what s_φ and the path start from.
    """

    network: AnyNetwork
    sigma_data: Positive = 0.5
    training: TeacherTraining
    exact_score: bool = False
    sampling_steps: Annotated[int, Ge(2)] = 18


class TeacherFile(_Frozen):
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


class Student(_Frozen):
    """network: 'teacher' (same network, same first weights) or one of its own with random weights.

    sigma_init: G(z) = D(σ_init z, σ_init). ema: the decay of the weights' moving average, which samples are drawn with; 0 for none.
    """

    network: Literal["teacher"] | MLPSpec = "teacher"
    sigma_init: Positive = 80.0
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0


class Recording(_Frozen):
    """Algorithm 1. A node every `every` steps, or after the steps that `at` names. steps 0: no path, the paper's 'w/o trajectory'."""

    steps: Whole = 200
    every: Count | None = None
    at: tuple[Count, ...] | None = None
    optimiser: OptimiserSettings

    @model_validator(mode="after")
    def _check(self) -> "Recording":
        if self.every is not None and self.at is not None:
            raise ValueError(f"every: {self.every}, and at: {list(self.at)}: give one of them, and null for the other")
        return self

    @property
    def marks(self) -> tuple[int, ...]:
        return path.node_marks(self.steps, every=self.every, at=self.at)


class Backtracking(_Frozen):
    """Algorithm 2. steps_per_node: for the nodes N-1 … 1 in this order; the teacher has what remains of `steps`."""

    steps: Count
    steps_per_node: Count | Annotated[tuple[Count, ...], MinLen(1)]
    generator: OptimiserSettings
    fake_score: OptimiserSettings
    fake_updates: Count = 1
    weighting: Weighting = "dmd"
    noise: AnyNoise = KarrasNoise()


class Evaluation(_Frozen):
    """every: steps between two measurements while training; samples: of the generator, for each; pictures: how many to show."""

    every: Count = 50
    samples: Annotated[int, Ge(2)] | None = None
    pictures: Count = 100


class Recipe(_Frozen):
    """recipe.yaml: one experiment. checkpoint_every: steps between two points to go on from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    summary: str
    data: AnyData
    teacher: AnyTeacher
    student: Student = Student()
    batch: Count
    micro_batches: Count = 1
    fit_noise: AnyNoise = LogNormalNoise()
    recording: Recording
    backtracking: Backtracking
    evaluation: Evaluation = Evaluation()
    checkpoint_every: Count = 100

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.batch % self.micro_batches:
            raise ValueError(f"micro_batches: {self.micro_batches} don't divide batch, {self.batch}")
        _check_order(self.fit_noise, "fit_noise")
        _check_order(self.backtracking.noise, "backtracking.noise")
        if isinstance(self.teacher, TeacherFile):
            self._check_without_data()
        else:
            self._check_with_data(self.teacher)
        return self

    def _check_with_data(self, teacher: Teacher) -> None:
        if isinstance(self.data, NoData):
            raise ValueError("data.kind: none is for a teacher from a file (teacher.checkpoint); this one is trained on data")
        points = isinstance(self.data, PointsData)
        if points != isinstance(teacher.network, ResNetMLPSpec):
            raise ValueError(f"teacher.network.kind: {teacher.network.kind} is not for data of kind {self.data.kind}")
        if teacher.exact_score and not points:
            raise ValueError(f"teacher.exact_score: no exact score is known for data of kind {self.data.kind}")
        if not points and self.evaluation.samples is not None and self.evaluation.samples <= FEATURES:
            raise ValueError(f"evaluation.samples: {self.evaluation.samples}; the judge has {FEATURES} features: more are needed")
        try:
            with torch.device("meta"):
                teacher.network.build(self.data.shape, classes=self.data.classes)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ValueError(f"teacher.network: can't be built for samples of shape {self.data.shape}: {error}") from None
        if isinstance(self.student.network, MLPSpec) and not points:
            raise ValueError(f"student.network.kind: mlp is not for data of kind {self.data.kind}")
        _check_order(teacher.training.noise, "teacher.training.noise")

    def _check_without_data(self) -> None:
        if not isinstance(self.data, NoData):
            raise ValueError(
                f"data.kind: {self.data.kind}: a teacher from a file brings its own shape; give data: {{kind: none}}"
            )
        if isinstance(self.student.network, MLPSpec):
            raise ValueError("student.network.kind: mlp is for points, and a teacher from a file makes images")
        if self.evaluation.samples is not None:
            raise ValueError(f"evaluation.samples: {self.evaluation.samples}: without data nothing is measured; leave it out")

    @property
    def switches(self) -> tuple[path.Switch, ...]:
        """Algorithm 2's targets. Raises ConfigError where they don't fit the steps."""
        return path.switches(len(self.recording.marks), self.backtracking.steps_per_node, total=self.backtracking.steps)


def _check_order(noise: KarrasNoise | LogNormalNoise, key: str) -> None:
    """Raises ValueError where the law's range is empty."""
    if isinstance(noise, KarrasNoise):
        if noise.sigma_min >= noise.sigma_max:
            raise ValueError(f"{key}: sigma_min {noise.sigma_min} is not below sigma_max {noise.sigma_max}")
        if noise.low >= noise.high:
            raise ValueError(f"{key}: low {noise.low} is not below high {noise.high}")


Model = TypeVar("Model", bound=BaseModel)
SHIPPED = resources.files("disback_ray") / "configs"


def shipped(folder: Literal["recipes", "clusters"]) -> list[str]:
    """Names of the recipes or cluster files that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in (SHIPPED / folder).iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe's name or a YAML file, with `key=value` overrides. Raises ConfigError."""
    recipe = _load(name, folder="recipes", model=Recipe, overrides=overrides)
    assert recipe.switches  # checks the nodes against the steps
    return recipe


def load_cluster(name: str | Path | ClusterConfig | None, *, overrides: Sequence[str] = ()) -> ClusterConfig:
    """A shipped cluster file's name, a YAML file (None: `local`) or settings, with `key=value` overrides. Raises ConfigError."""
    if isinstance(name, ClusterConfig):
        text = yaml.safe_dump(name.model_dump(mode="json", by_alias=True))
        return parse(text, model=ClusterConfig, where="cluster", overrides=overrides)
    return _load(str(name or "local"), folder="clusters", model=ClusterConfig, overrides=overrides)


def recipe_text(name: str) -> str:
    """A shipped recipe, or a YAML file, as it is written. Raises ConfigError."""
    return _text(name, folder="recipes")


def _load(name: str, *, folder: Literal["recipes", "clusters"], model: type[Model], overrides: Sequence[str]) -> Model:
    beside = Path.cwd() if name in shipped(folder) else Path(name).expanduser().absolute().parent
    return parse(_text(name, folder=folder), model=model, where=name, overrides=overrides, beside=beside)


def _text(name: str, *, folder: Literal["recipes", "clusters"]) -> str:
    known = shipped(folder)
    if name in known:
        return (SHIPPED / folder / f"{name}.yaml").read_text("utf-8")
    if not name.endswith((".yaml", ".yml")) and "/" not in name:
        raise ConfigError(
            f"unknown {folder[:-1]} {name!r}{nearest(name, known)}; shipped: {', '.join(known)}; or name a .yaml file"
        )
    try:
        return Path(name).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{name}: {reason}") from None


def parse(text: str, *, model: type[Model], where: str, overrides: Sequence[str] = (), beside: Path | None = None) -> Model:
    """YAML → model. where: what to call it in errors; beside: the folder that a file named in it is relative to.

    In an override, a file is relative to the working directory. Raises ConfigError, one line that names the key.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: holds {type(data).__name__}, not keys and values")
    _anchor(data, beside or Path.cwd())
    for override in overrides:
        _override(data, override)
    _anchor(data, Path.cwd())
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, data, model)}") from None
    _refuse_truth_as_number(data, made.model_dump(mode="json", by_alias=True), where=where)
    return made


def _refuse_truth_as_number(written: Any, read: Any, *, where: str, key: str = "") -> None:
    """To Python, true is 1: pydantic would take `batch: true`. Raises ConfigError."""
    if isinstance(written, bool) and not isinstance(read, bool):
        raise ConfigError(f"{where}: {key}: {str(written).lower()}: expected a {type(read).__name__}")
    if isinstance(written, dict) and isinstance(read, dict):
        for name in written:
            _refuse_truth_as_number(written[name], read.get(name), where=where, key=f"{key}.{name}".lstrip("."))
    elif isinstance(written, list) and isinstance(read, list):
        for index, (old, new) in enumerate(zip(written, read, strict=True)):
            _refuse_truth_as_number(old, new, where=where, key=f"{key}.{index}")


def _anchor(data: dict[str, Any], folder: Path) -> None:
    """Makes the teacher's file, where one is named, absolute."""
    teacher = data.get("teacher")
    named = teacher.get("checkpoint") if isinstance(teacher, dict) else None
    if isinstance(teacher, dict) and isinstance(named, str) and "://" not in named:
        teacher["checkpoint"] = os.path.abspath(folder / Path(named).expanduser())


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last or not all(parents):
        raise ConfigError(f"--set {text}: expected key=value, such as backtracking.steps=100")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {text}: {parent} holds a value, not keys")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is not YAML") from None
