"""recipe.yaml: one experiment."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from disback_ray.algorithms import path as paths
from disback_ray.algorithms.noise import LogNormalNoise
from disback_ray.algorithms.records import WireDtype
from disback_ray.config.base import AnyNoise, Frozen, check_order, refuse_unknown_keys
from disback_ray.config.networks import check_network, check_student
from disback_ray.config.precision import FakeScoreNetwork, Precision
from disback_ray.config.stages import AutoPath, Backtracking, Evaluation, Recording, Student
from disback_ray.config.teacher import AnyTeacher, Teacher, TeacherModule, TextTeacher
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import DigitsData, GridData, ImagesData, NoData, PointsData, RingData
from disback_ray.evaluation.digit_judge import FEATURES
from disback_ray.networks.module import ModuleSpec
from disback_ray.networks.spec import Count, DenoiserSpec, MLPSpec, ResNetMLPSpec, Samples

refuse_unknown_keys(DigitsData, RingData, GridData, ImagesData, NoData, PromptsData)

AnyData = Annotated[DigitsData | RingData | GridData | ImagesData | NoData | PromptsData, Field(discriminator="kind")]


def _named_path(value: object) -> object:
    if isinstance(value, str) and value not in ("fixed", "auto"):
        raise ValueError("expected 'fixed', 'auto', or auto's settings, such as {trial: 40}")
    return {} if value == "auto" else value


class Recipe(Frozen):
    """recipe.yaml: one experiment. checkpoint_every: steps between two points to go on from. path: the paper's, or one that decides.

    wire_dtype: of samples, scores and their differences between the roles; bf16 halves the bytes and rounds, also in one process.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    summary: str = ""
    data: AnyData
    teacher: AnyTeacher
    student: Student = Student()
    fake_score: FakeScoreNetwork = FakeScoreNetwork()
    precision: Precision = Precision()
    batch: Samples
    micro_batches: Count = 1
    wire_dtype: WireDtype = "fp32"
    fit_noise: AnyNoise = LogNormalNoise()
    path: Annotated[Literal["fixed"] | AutoPath, BeforeValidator(_named_path)] = "fixed"
    recording: Recording
    backtracking: Backtracking
    evaluation: Evaluation = Evaluation()
    checkpoint_every: Count = 100

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.batch % self.micro_batches:
            raise ValueError(f"micro_batches: {self.micro_batches} don't divide batch, {self.batch}")
        self._check_path()
        self._check_networks()
        check_order(self.fit_noise, "fit_noise")
        check_order(self.backtracking.noise, "backtracking.noise")
        if isinstance(self.teacher, Teacher):
            self._check_with_data(self.teacher)
        elif isinstance(self.teacher, TeacherModule):
            self._check_with_module(self.teacher)
        else:
            self._check_without_data()
        return self

    def _check_path(self) -> None:
        if self.path == "fixed":
            return
        if not self.recording.steps:
            raise ValueError("path: auto: recording.steps is 0: there is no path to decide about; leave path out")
        if self.path.trial >= self.backtracking.steps:
            raise ValueError(f"path.trial: {self.path.trial}: has to end before backtracking.steps, {self.backtracking.steps}")
        if self.path.switch == "plateau" and not isinstance(self.backtracking.steps_per_node, int):
            raise ValueError("path.switch: plateau: give backtracking.steps_per_node as one number, the most for each node")

    def _check_networks(self) -> None:
        if self.fake_score.lora and self.backtracking.fake_init == "random":
            raise ValueError(
                "backtracking.fake_init: random: LoRA (fake_score.lora) leaves all weights but its own the teacher's"
            )
        if self.fake_score.lora and self.recording.store == "low_rank":
            raise ValueError(
                "recording.store: low_rank: adapters (fake_score.lora) are of a low rank already: fp32, bf16 or int8"
            )
        if isinstance(self.teacher, Teacher) and self.teacher.exact_score and self.precision.teacher != "fp32":
            raise ValueError(f"precision.teacher: {self.precision.teacher}: the exact score is no network: fp32")
        if isinstance(self.student.network, MLPSpec) and self.precision.generator != "fp32":
            raise ValueError(
                f"precision.generator: {self.precision.generator}: only denoisers can, and the student is an MLP: fp32"
            )

    def _check_with_data(self, teacher: Teacher) -> None:
        if isinstance(self.data, NoData | PromptsData):
            kind = self.data.kind
            raise ValueError(f"data.kind: {kind} is for a teacher from a file (teacher.checkpoint); this one is trained on data")
        if self.student.lora is not None:
            raise ValueError(f"student.lora: {self.student.lora}: only for a teacher of format stable-diffusion")
        points = isinstance(self.data, PointsData)
        if points != isinstance(teacher.network, ResNetMLPSpec) and not isinstance(teacher.network, ModuleSpec):
            raise ValueError(f"teacher.network.kind: {teacher.network.kind} is not for data of kind {self.data.kind}")
        if teacher.exact_score and not points:
            raise ValueError(f"teacher.exact_score: no exact score is known for data of kind {self.data.kind}")
        self._check_samples()
        digits = isinstance(self.data, DigitsData)
        if digits and self.evaluation.samples is not None and self.evaluation.samples <= FEATURES:
            raise ValueError(f"evaluation.samples: {self.evaluation.samples}; the judge has {FEATURES} features: more are needed")
        classes = 0 if isinstance(self.data, ImagesData) else self.data.classes  # of images known once they are read
        spec = DenoiserSpec(teacher.network, self.data.shape, classes, teacher.sigma_data)
        check_network(spec, "teacher.network")
        if self.student.network != "teacher":
            check_student(self.student.network, self.data.shape, self.data.kind)
        check_order(teacher.training.noise, "teacher.training.noise")

    def _check_with_module(self, teacher: TeacherModule) -> None:
        if isinstance(self.data, PromptsData):
            raise ValueError("data.kind: prompts is for a teacher of format stable-diffusion")
        if isinstance(self.data, NoData):
            if len(teacher.shape) == 1:
                raise ValueError("data.kind: none: points can't be shown without data: name ring or grid")
        elif isinstance(self.data, ImagesData):
            if teacher.shape != self.data.shape:
                raise ValueError(f"teacher.shape: {list(teacher.shape)}; the images of data have {list(self.data.shape)}")
        elif (teacher.shape, teacher.classes) != (self.data.shape, self.data.classes):
            raise ValueError(
                f"teacher.shape, teacher.classes: {list(teacher.shape)}, {teacher.classes}; data of kind {self.data.kind} "
                f"have {list(self.data.shape)}, {self.data.classes}"
            )
        self._check_samples()
        if self.student.network != "teacher":
            check_student(self.student.network, teacher.shape, self.data.kind)

    def _check_without_data(self) -> None:
        if isinstance(self.teacher, TextTeacher):
            if self.student.network != "teacher":
                raise ValueError(f"student.network.kind: {self.student.network.kind}: this teacher's student is its own network")
            if not isinstance(self.data, PromptsData):
                raise ValueError(
                    f"data.kind: {self.data.kind}: this teacher takes prompts: give data: {{kind: prompts, file: FILE}}"
                )
        elif not isinstance(self.data, (NoData, ImagesData)):
            raise ValueError(
                f"data.kind: {self.data.kind}: a teacher from a file brings its own shape; give data: {{kind: none}}, or images of it"
            )
        elif self.student.lora is not None:
            raise ValueError(f"student.lora: {self.student.lora}: only for a teacher of format stable-diffusion")
        if isinstance(self.student.network, MLPSpec):
            raise ValueError("student.network.kind: mlp is for points, and a teacher from a file makes images")
        self._check_samples()

    def _check_samples(self) -> None:
        images, reference = isinstance(self.data, (NoData, ImagesData, PromptsData)), self.evaluation.reference
        if images and reference is None and self.evaluation.samples is not None:
            raise ValueError(
                f"evaluation.samples: {self.evaluation.samples}: with data of kind {self.data.kind} nothing is measured; leave it out"
            )
        if not images and reference is not None:
            raise ValueError(
                f"evaluation.reference: {reference}: data of kind {self.data.kind} have measures of their own; leave it out"
            )

    @property
    def modules(self) -> tuple[str, ...]:
        """Each module:factory that the recipe names, and whose code a run of it therefore runs."""
        teacher = self.teacher.network if isinstance(self.teacher, Teacher) else self.teacher
        named = [
            network.module for network in (teacher, self.student.network) if isinstance(network, (ModuleSpec, TeacherModule))
        ]
        extractor = self.evaluation.extractor
        return tuple(dict.fromkeys([*named, *([extractor] if ":" in extractor else [])]))

    @property
    def marks(self) -> tuple[int, ...]:
        """After how many recording steps each node is kept. Raises ConfigError where they don't fit the steps."""
        placed = self.recording.at or self.recording.every
        return self.recording.marks if self.path == "fixed" or placed else paths.geometric_marks(self.recording.steps)

    @property
    def switches(self) -> tuple[paths.Switch, ...]:
        """Algorithm 2's targets. Raises ConfigError where they don't fit the steps."""
        back = self.backtracking
        return paths.switches(len(self.marks), back.steps_per_node, total=back.steps, blend=back.blend)
