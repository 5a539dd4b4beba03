"""Brings the roles of a recipe on stage: each in a Ray actor on its promised device, or all in this process."""

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from disback_ray.actors.evaluator import Evaluator
from disback_ray.actors.fake_score import FakeScore, FakeScoreSettings, StageSettings
from disback_ray.actors.frozen_score import FrozenTeacher, PathNode
from disback_ray.actors.generator import Generator, GeneratorSettings
from disback_ray.actors.mishaps import told
from disback_ray.actors.on_ray import OnRay, Part, Replicas
from disback_ray.actors.placement import Placement
from disback_ray.actors.rank_group import RankGroup
from disback_ray.actors.recovery import Audience, Recovery
from disback_ray.actors.timesheet import Account, Timesheet
from disback_ray.algorithms import backtracking, degradation
from disback_ray.algorithms.cast import Cast
from disback_ray.config import Recipe, RecoveryLimits, RoleResources, Teacher, TeacherFile, TextTeacher
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
from disback_ray.run_folder import CONFIG
from disback_ray.storage import Folder
from disback_ray.teachers.guidance import NONE
from disback_ray.teachers.mixture import ExactMixture
from disback_ray.teachers.path_copies import PathCopies
from disback_ray.teachers.saved import load_spec, refuse_modules

RANK_SECONDS = 300.0
"""So long a rank waits for the others; their death it learns at once."""


@dataclass(frozen=True)
class Places:
    """The folders that the roles read and write: the teacher's, the run's, the cache that runs share, and the student's start.

    student: the denoiser that the student starts as, where it isn't the teacher.
    """

    teacher: Folder
    run: Folder
    cache: Folder
    student: Folder | None = None


@dataclass(frozen=True)
class Company:
    """The cast as the algorithms see it, the roles for all else, and how to wait for what they give. seats: where each runs.

    kept([(what snapshot() gave, what load() takes)]): the roles can go on from there, and need nothing that came before. log_steps:
    after so many steps there has to be a checkpoint, None where nothing is logged.
    renew(): every role is as it was when it was built. leaving(): machines of theirs that have just said that they are to go.
    accounts(): each seat's calls since the last time, and what to add to its clock to have this process's.
    """

    cast: Cast
    teacher: Any
    fake_score: Any
    generator: Any
    evaluator: Any
    wait: Callable[[Any], Any]
    is_ready: Callable[[Any], bool]
    kept: Callable[..., None]
    log_steps: int | None
    renew: Callable[[], None]
    leaving: Callable[[], list[str]]
    accounts: Callable[[], tuple[dict[str, Account], dict[str, float]]]
    seats: dict[str, dict[str, Any]]


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
        **dict.fromkeys(backtracking.TRAINS, trains),
    }
    asked = recipe.evaluation
    against = None
    if asked.reference is not None:
        extractor = ExtractorSpec(asked.extractor, asked.weights, asked.sha256, asked.mode)
        against = AgainstReference(asked.reference, extractor, asked.samples or IMAGES_MEASURED)
    wire = recipe.wire_dtype
    precision = recipe.precision
    fake = FakeScoreSettings(
        stages, teacher.sigma_data, back.noise, recipe.fit_noise, back.weighting, wire,
        precision=precision.fake_score, checkpointing=recipe.fake_score.checkpointing, seed=seed,
    )  # fmt: skip
    copies = PathCopies(places.teacher, path, recipe.fake_score.lora)
    generator = GeneratorSettings(
        spec, back.steps, recipe.batch, back.generator, student.ema, seed, wire,
        precision=precision.generator, checkpointing=student.checkpointing, graph=student.graph, ema_on=student.ema_on,
        ema_ramp=student.ema_ramp,
    )  # fmt: skip
    return {
        "teacher": (
            FrozenTeacher,
            {
                "folder": places.teacher,
                "noise": back.noise,
                "exact": exact,
                "wire": wire,
                "precision": precision.teacher,
                "guidance": guidance,
            },
        ),
        "path_node": (
            PathNode,
            {
                "copies": copies,
                "noise": back.noise,
                "wire": wire,
                "precision": precision.path_node,
                "guidance": nodes_guidance,
            },
        ),
        "fake_score": (FakeScore, {"settings": fake, "copies": copies}),
        "generator": (
            Generator,
            {
                "settings": generator,
                "start": start,
            },
        ),
        "evaluator": (
            Evaluator,
            {
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
        ),
    }


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


class Here:
    """A role in this process, with the number of threads that it would have in its own."""

    def __init__(self, name: str, part: Part, *, threads: int, sheet: Timesheet) -> None:
        self._name = name
        self._part = part
        self._threads = threads
        self._sheet = sheet
        self._renew()

    def _renew(self) -> None:
        """A new role in place of the one that there is, which goes first."""
        role, arguments = self._part
        self._role: Any = None
        self._role = role(**arguments)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._role, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            with told(self._name, method, args), self._sheet.call(method, args) as gave:
                gave.append(call(*args, **kwargs))
            return gave[0]

        return run


def in_process(recipe: Recipe, places: Places, roles: Mapping[str, RoleResources], *, seed: int, trace: bool = False) -> Company:
    """All roles in this process, one after the other: the same lines, the same numbers. trace: whether each call is noted."""
    needed = parts(recipe, places, seed=seed)
    sheets = {name: Timesheet(trace) for name in needed}
    made = {name: Here(name, part, threads=roles[name].threads, sheet=sheets[name]) for name, part in needed.items()}

    def renew() -> None:
        for role in made.values():
            role._renew()

    here = {"pid": os.getpid(), "node": socket.gethostname(), "devices": []}
    return _company(
        made,
        dict.fromkeys(made, here),
        wait=lambda value: value,
        is_ready=lambda value: True,
        kept=lambda *points: None,
        log_steps=None,
        renew=renew,
        leaving=lambda: [],
        accounts=lambda: ({name: sheet.account() for name, sheet in sheets.items()}, {}),
    )


def on_ray(
    recipe: Recipe, places: Places, roles: Mapping[str, RoleResources], placement: Placement,
    *, seed: int, limits: RecoveryLimits, audience: Audience, trace: bool = False,
) -> Company:  # fmt: skip
    """Each role in an actor on its promised device, and in another one where that is lost. Raises what building a role raises.

    trace: whether each call is noted.
    """
    made, recovery = hosted(
        parts(recipe, places, seed=seed), roles, placement,
        shared=places.run, proof=CONFIG, limits=limits, audience=audience, trace=trace,
    )  # fmt: skip
    most = log_steps(recipe, load_spec(places.teacher).shape, limits)
    return _company(
        made, recovery.seats, wait=recovery.wait, is_ready=recovery.is_ready, kept=recovery.kept, log_steps=most,
        accounts=recovery.accounts, renew=recovery.renew, leaving=recovery.leaving,
    )  # fmt: skip


def hosted(
    needed: Mapping[str, Part], roles: Mapping[str, RoleResources], placement: Placement,
    *, shared: Folder, proof: str, limits: RecoveryLimits, audience: Audience, trace: bool,
) -> tuple[dict[str, Replicas], Recovery]:  # fmt: skip
    """Any parts, each in its actors. shared, proof: a folder that all of them must see, and a file in it."""
    labels = {
        name: [name if roles[name].replicas == 1 else f"{name}/{replica}" for replica in range(roles[name].replicas)]
        for name in needed
    }

    def process(name: str, replica: int) -> OnRay | RankGroup:
        asked = roles[name]
        common: dict[str, Any] = {"threads": asked.threads, "shared": shared, "proof": proof, "trace": trace}
        if asked.ranks == 1:
            return OnRay(labels[name][replica], needed[name], options=placement.options(name, replica), **common)
        options = [placement.options(name, rank) for rank in range(asked.ranks)]
        return RankGroup(name, needed[name], sharding=asked.sharding, options=options, timeout=RANK_SECONDS, **common)

    recovery = Recovery(limits, audience, missing=placement.missing)
    proxies = recovery.seat(
        {
            label: (needed[name][0], partial(process, name, replica))
            for name in needed
            for replica, label in enumerate(labels[name])
        }
    )
    return {name: Replicas([proxies[label] for label in labels[name]]) for name in needed}, recovery


def log_steps(recipe: Recipe, shape: tuple[int, ...], limits: RecoveryLimits) -> int:
    """Steps between two checkpoints, so that what the log holds keeps to its budget: x_0, the target's score and the field, each step."""
    numbers = 3 * recipe.batch * math.prod(shape)
    return max(1, limits.log_mb * 2**20 // (numbers * (2 if recipe.wire_dtype == "bf16" else 4)))


def _company(made: Mapping[str, Any], seats: dict[str, dict[str, Any]], **driving: Any) -> Company:
    cast = Cast(made["teacher"], made["path_node"], made["fake_score"], made["generator"])
    roles = {name: made[name] for name in ("teacher", "fake_score", "generator", "evaluator")}
    return Company(cast=cast, seats=seats, **roles, **driving)
