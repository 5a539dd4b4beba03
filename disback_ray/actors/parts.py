"""The roles of a recipe: each one's class, and the arguments that build it wherever it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from disback_ray.actors.evaluator import Evaluator
from disback_ray.actors.fake_score import FakeScore, FakeScoreSettings, StageSettings
from disback_ray.actors.frozen_score import FrozenTeacher, PathNode
from disback_ray.actors.generator import Generator, GeneratorSettings
from disback_ray.algorithms import backtracking, degradation
from disback_ray.config import Recipe, Teacher, TeacherFile, TextTeacher
from disback_ray.data.prepared import PreparedImages
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import GridData, ImagesData, NoData, RingData
from disback_ray.errors import ConfigError
from disback_ray.evaluation.extractors import ExtractorSpec
from disback_ray.evaluation.image_measures import SAMPLES as IMAGES_MEASURED
from disback_ray.evaluation.image_measures import AgainstReference
from disback_ray.evaluation.looks import bands
from disback_ray.networks.spec import DenoiserSpec, GeneratorSpec, MLPSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.storage import Folder
from disback_ray.teachers.guidance import NONE
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import load_spec, refuse_modules

Part = tuple[Callable[..., Any], dict[str, Any]]
"""A role's class, and the arguments that build it wherever it runs."""

CLASSES: dict[str, Callable[..., Any]] = {
    "teacher": FrozenTeacher,
    "path_node": PathNode,
    "fake_score": FakeScore,
    "generator": Generator,
    "evaluator": Evaluator,
}


@dataclass(frozen=True)
class Places:
    """The folders that the roles read and write: the teacher's, the run's, the cache that runs share, and the student's start.

    student: the denoiser that the student starts as, where it isn't the teacher.
    """

    teacher: Folder
    run: Folder
    cache: Folder
    student: Folder | None = None


def denoiser_spec(recipe: Recipe) -> DenoiserSpec:
    """The network that a recipe trains as its teacher."""
    assert isinstance(recipe.teacher, Teacher)
    assert not isinstance(recipe.data, NoData | PromptsData)
    assert not isinstance(recipe.data, ImagesData) or isinstance(recipe.data, PreparedImages)
    return DenoiserSpec(recipe.teacher.network, recipe.data.shape, recipe.data.classes, recipe.teacher.sigma_data)


def student_spec(recipe: Recipe, teacher: DenoiserSpec, *, start: DenoiserSpec | None = None) -> GeneratorSpec:
    """The generator of a recipe: the teacher's network or one of its own, for the teacher's samples.

    start: the teacher's network with what is added to it for the student, a LoRA. Raises ConfigError where the teacher doesn't know
    the student's time.
    """
    chosen = recipe.student.network
    network: DenoiserSpec | MLPSpec
    if chosen == "teacher":
        network = start or teacher
    elif isinstance(chosen, MLPSpec):
        network = chosen
    else:
        network = DenoiserSpec(chosen, teacher.shape, teacher.classes, teacher.sigma_data)
    unit_noise = recipe.student.init_timestep is not None
    return GeneratorSpec(network, teacher.shape, teacher.classes, sigma_init(recipe, teacher), unit_noise)


def parts(recipe: Recipe, places: Places, *, seed: int) -> dict[str, Part]:
    """Each role's class, and the arguments that build it wherever it runs.

    Raises CheckpointError unless the teacher is in its place, and is no module that the recipe doesn't name.
    """
    teacher = load_spec(places.teacher)  # the network that the teacher, the path's nodes and s_φ share
    trusted = teacher.module in recipe.modules or (isinstance(recipe.teacher, TeacherFile) and recipe.teacher.trust_modules)
    refuse_modules(teacher, where=places.teacher.uri, trust=trusted)
    path = places.run / "path"
    back, student, data = recipe.backtracking, recipe.student, recipe.data
    exact = (
        ExactMixture(data.centres, std=data.std)
        if isinstance(recipe.teacher, Teacher) and recipe.teacher.exact_score and isinstance(data, (RingData, GridData))
        else None
    )
    own = student.network == "teacher"
    start = (places.student or places.teacher) if own else None
    spec = student_spec(recipe, teacher, start=load_spec(start) if start else teacher)
    latents = teacher.network if isinstance(teacher.network, TextUNetSpec) else None
    guidance, nodes_guidance = NONE, NONE
    if isinstance(recipe.teacher, TextTeacher):
        guidance, nodes_guidance = recipe.teacher.guidance, recipe.teacher.nodes_guidance
    trains = StageSettings(
        back.steps, recipe.batch, back.fake_score, back.fake_updates, staleness=back.staleness, fused=back.fuse_forward
    )
    stages = {
        degradation.STAGE: StageSettings(max(recipe.recording.steps, 1), recipe.batch, recipe.recording.optimiser),
        backtracking.STAGE: trains,
    }
    against = against_reference(recipe)
    wire = recipe.wire_dtype
    precision = recipe.precision
    fake = FakeScoreSettings(
        stages, teacher.sigma_data, back.noise, recipe.fit_noise, back.weighting, wire,
        precision=precision.fake_score, checkpointing=recipe.fake_score.checkpointing, seed=seed,
    )  # fmt: skip
    copies = PathCopies(places.teacher, path, recipe.fake_score.lora, recipe.recording.storage)
    generator = GeneratorSettings(
        spec, back.steps, recipe.batch, back.generator, student.ema, seed, wire,
        precision=precision.generator, checkpointing=student.checkpointing, graph=student.graph, ema_on=student.ema_on,
        ema_ramp=student.ema_ramp,
    )  # fmt: skip
    arguments: dict[str, dict[str, Any]] = {
        "teacher": {
            "folder": places.teacher,
            "noise": back.noise,
            "exact": exact,
            "wire": wire,
            "precision": precision.teacher,
            "guidance": guidance,
        },
        "path_node": {
            "copies": copies,
            "noise": back.noise,
            "wire": wire,
            "precision": precision.path_node,
            "guidance": nodes_guidance,
            "two": back.blend > 0 and len(recipe.marks) > 2,  # else there is no switch between two of the path's own nodes
        },
        "fake_score": {"settings": fake, "copies": copies},
        "generator": {"settings": generator, "start": start},
        "evaluator": {
            "data": data,
            "shape": teacher.shape,
            "classes": teacher.classes,
            "run": places.run,
            "cache": places.cache,
            "samples": recipe.evaluation.samples,
            "pictures": recipe.evaluation.pictures,
            "sigmas": bands(back.noise),
            "seed": seed,
            "latents": latents,
            "against": against,
            "student": spec,
        },
    }
    return {name: (CLASSES[name], given) for name, given in arguments.items()}


def against_reference(recipe: Recipe) -> AgainstReference | None:
    """What the evaluator is to measure the generator's images against; None where the recipe names no reference."""
    asked = recipe.evaluation
    if asked.reference is None:
        return None
    extractor = ExtractorSpec(asked.extractor, asked.weights, asked.sha256, asked.mode)
    return AgainstReference(asked.reference, extractor, asked.samples or IMAGES_MEASURED)


def sigma_init(recipe: Recipe, teacher: DenoiserSpec) -> float:
    """The σ at which the student is used: the recipe's, or that of its time. Raises ConfigError where the teacher has no such time."""
    time = recipe.student.init_timestep
    if time is None:
        return recipe.student.sigma_init
    known = teacher.schedule.steps if teacher.schedule else 0
    if teacher.schedule is None or time >= known:
        what = f"the teacher knows times of 0 … {known - 1}" if known else "the teacher knows no times; give student.sigma_init"
        raise ConfigError(f"student.init_timestep: {time}: {what}")
    return float(teacher.schedule.sigmas[time])
