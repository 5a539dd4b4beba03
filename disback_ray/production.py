"""One run: what it plays, where its files lie, and which teacher it needs."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from disback_ray.actors.parts import Places, against_reference, denoiser_spec, sigma_init, student_spec
from disback_ray.actors.players import Recovered
from disback_ray.algorithms.noise import span
from disback_ray.config import Recipe, Teacher, TeacherModule, TextTeacher
from disback_ray.data.prepared import PreparedImages
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import ImagesData, NoData
from disback_ray.errors import CheckpointError, ConfigError
from disback_ray.evaluation.image_measures import ImageMeasures
from disback_ray.interruption import Stop
from disback_ray.networks.checkpointing import checkpoint_gradients
from disback_ray.networks.lora import add_lora
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.progress import Watcher
from disback_ray.run_folder import (
    SUMMARY,
    Metrics,
    Summary,
)
from disback_ray.run_lock import Lock
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import import_teacher
from disback_ray.teachers.own import keep_module
from disback_ray.teachers.saved import is_saved, load_spec
from disback_ray.teachers.text_teacher import import_text_teacher, save_lora_student
from disback_ray.teachers.training import TeacherPlan

ROUNDING = 1e-3
"""Of a range of σ: a recipe writes it in a few digits."""


class Stopped(Exception):
    """Somebody asked for a stop, and what there is has been kept."""


@dataclass
class Production:
    """One run: what it plays, where its files lie, who watches, whether it was asked to stop, and its hold on the folder.

    keep: so many checkpoints; skips: whether a step with NaN or Inf is left out; trace: whether each call of a role is noted; all_looks:
    whether steps wait for an evaluator that has no time, rather than that a look at images is left out.
    """

    recipe: Recipe
    seed: int
    folder: Folder
    places: Places
    summary: Summary
    metrics: Metrics
    watch: Watcher
    stop: Stop
    lock: Lock
    keep: int = 2
    skips: bool = False
    trace: bool = False
    all_looks: bool = False

    @property
    def leaves_looks_out(self) -> bool:
        """Where images are judged, which takes its time; looks at points and digits take little, and all of them are wanted."""
        return self.recipe.evaluation.reference is not None and not self.all_looks

    def save_summary(self) -> None:
        """Raises RunFolderError where the folder is another driver's by now, and CheckpointError."""
        self.lock.require()
        self.folder.write_json(SUMMARY, asdict(self.summary))

    def say(self, text: str) -> None:
        self.watch.say(text)

    def gives_up(self) -> bool:
        return self.stop.is_set()

    def recovered(self, event: Recovered) -> None:
        """Tells of roles that were lost and are there again: those who watch, and the summary."""
        last = self.metrics.rows[-1] if self.metrics.rows else None
        where = f"after {last['stage']} step {last['step']}" if last else "before the first step"
        differs = "" if event.identical else ", but not bit for bit what it was"
        self.say(
            f"{' and '.join(event.roles)} lost ({event.reason}); recovered in {event.seconds:.1f} s {where}, "
            f"{event.calls} calls made again{differs}"
        )
        self.summary.recovered(asdict(event) | {"stage": last["stage"] if last else None, "step": last["step"] if last else 0})
        self.save_summary()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes to summary.stages, also where it ends early."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self.summary.stages.get(name, 0.0) + time.monotonic() - began
            self.summary.stages[name] = round(spent, 3)


def teacher_folder(recipe: Recipe, cache: Folder) -> Folder:
    """Where the teacher lies, or will once it is trained. One from a file or a module is put there now.

    Raises CheckpointError where the file is missing, damaged, refused or not what the recipe expects, ConfigError where a module
    can't be used, or the recipe's noise is not the teacher's; then nothing is written.
    """
    asked = recipe.teacher
    if isinstance(asked, Teacher):
        return cache / teacher_name(teacher_plan(recipe))
    if isinstance(asked, TeacherModule):
        with _named("teacher"):
            return keep_module(cache, asked.spec, weights=asked.weights)
    try:
        if isinstance(asked, TextTeacher):
            assert isinstance(recipe.data, PromptsData)
            folder = import_text_teacher(cache, asked.checkpoint, recipe.data, asked.expects)
            check_noise(recipe, load_spec(folder))
            return folder
        folder = import_teacher(
            cache, asked.checkpoint, format=asked.format, scalings=asked.scalings, expected=asked.expects,
            trust_modules=asked.trust_modules,
        )  # fmt: skip
    except CheckpointError as error:
        raise CheckpointError(f"teacher.checkpoint: {error}") from None
    check_noise(recipe, load_spec(folder))
    return folder


def student_folder(recipe: Recipe, cache: Folder, teacher: Folder) -> Folder | None:
    """The denoiser that the student starts as, where it isn't the teacher: that with a LoRA. Raises CheckpointError."""
    if recipe.student.lora is None:
        return None
    try:
        return save_lora_student(cache, teacher, recipe.student.lora)
    except CheckpointError as error:
        raise CheckpointError(f"student.lora: {error}") from None


def check_noise(recipe: Recipe, spec: DenoiserSpec) -> None:
    """Whether all noise is of levels that the teacher knows, where it knows a table of them. Raises ConfigError."""
    if spec.schedule is None:
        return
    least, most = spec.schedule.sigma_min, spec.schedule.sigma_max
    ranges = {"fit_noise": span(recipe.fit_noise), "backtracking.noise": span(recipe.backtracking.noise)}
    if recipe.student.network == "teacher":
        ranges["student.sigma_init"] = (sigma_init(recipe, spec),) * 2
    for key, (low, high) in ranges.items():
        if low < least * (1 - ROUNDING) or high > most * (1 + ROUNDING):
            levels = f"σ of {low:.4g} … {high:.4g}" if high > low else f"σ = {low:.4g}"
            law = "" if key.startswith("student") else "; {kind: timesteps} draws from a schedule"
            raise ConfigError(f"{key}: {levels}, and the teacher knows {least:.4g} … {most:.4g}{law}")
    if recipe.teacher.sampling_steps > spec.schedule.steps:
        raise ConfigError(
            f"teacher.sampling_steps: {recipe.teacher.sampling_steps}: the teacher knows {spec.schedule.steps} times"
        )


def modules_of(recipe: Recipe, teacher: Folder | None) -> tuple[str, ...]:
    """Each module:factory that the roles will import: those of the recipe, and that of a teacher's folder which it trusts."""
    found = load_spec(teacher).module if teacher is not None and is_saved(teacher) else None
    return tuple(dict.fromkeys([*recipe.modules, *([found] if found else [])]))


def check_networks(recipe: Recipe, teacher: Folder) -> None:
    """Tries the networks that only a run can: modules, a student's for the shape that a teacher's file has, and what trains them.

    Raises ConfigError where one doesn't fit, CheckpointError where the teacher's folder names a module that the recipe doesn't.
    """
    trained = isinstance(recipe.teacher, Teacher)
    spec = denoiser_spec(recipe) if trained else load_spec(teacher)
    if trained and spec.module and not is_saved(teacher):
        with _named("teacher.network"):
            spec.check()
    found = (spec.shape, spec.classes)
    if isinstance(recipe.data, PreparedImages) and found != (recipe.data.shape, recipe.data.classes):
        raise ConfigError(
            f"data: its images are of shape {list(recipe.data.shape)}, with {recipe.data.classes} classes; "
            f"the teacher makes {list(spec.shape)}, with {spec.classes}: change data.resolution, data.grey or data.conditional"
        )
    student = student_spec(recipe, spec)
    if isinstance(student.network, DenoiserSpec) and recipe.student.network != "teacher":
        with _named("student.network"):
            student.network.check()
    if isinstance(student.network, DenoiserSpec) and recipe.student.checkpointing:
        with _named("student"):
            checkpoint_gradients(student.network.sketch(), recipe.student.checkpointing)
    with _named("fake_score"):
        if recipe.fake_score.lora is not None:
            add_lora(spec.sketch(), recipe.fake_score.lora)
        if recipe.fake_score.checkpointing:
            checkpoint_gradients(spec.sketch(), recipe.fake_score.checkpointing)


def check_reference(recipe: Recipe, spec: DenoiserSpec, *, here: bool) -> None:
    """What the evaluator would say of evaluation.reference once the teacher is trained. here: its files are this machine's.

    Raises ConfigError where features would be of another kind than the reference's, or too few; where `here`, CheckpointError for
    files that are missing or damaged.
    """
    if (against := against_reference(recipe)) is None:
        return
    latents = isinstance(spec.network, TextUNetSpec)
    with contextlib.nullcontext() if here else contextlib.suppress(CheckpointError):
        ImageMeasures(against, shape=spec.shape, classes=spec.classes, decode=(lambda x: x) if latents else None)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Puts the recipe's key before what is wrong with its value."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def teacher_plan(recipe: Recipe) -> TeacherPlan:
    """All that decides a trained teacher's weights; its hash names the folder that runs share."""
    assert isinstance(recipe.teacher, Teacher)
    assert not isinstance(recipe.data, NoData | PromptsData)
    assert not isinstance(recipe.data, ImagesData) or isinstance(recipe.data, PreparedImages)
    training = recipe.teacher.training
    return TeacherPlan(
        spec=denoiser_spec(recipe), data=recipe.data, steps=training.steps, batch=training.batch,
        optimiser=training.optimiser, ema=training.ema, label_dropout=training.label_dropout,
        noise=training.noise, seed=training.seed,
    )  # fmt: skip


def teacher_name(plan: TeacherPlan) -> str:
    """Such as digits-3f9c1a2b4d5e: the data's kind and a hash of every setting."""
    written = asdict(plan)
    if isinstance(plan.data, PreparedImages):
        written["data"] = plan.data.identity  # wherever they lie
    settings = json.dumps(written, sort_keys=True).encode()
    return f"{plan.data.kind}-{hashlib.sha256(settings).hexdigest()[:12]}"
