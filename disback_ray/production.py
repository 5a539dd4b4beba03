"""One run: what it plays, where its files lie, and which teacher it needs."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from disback_ray.actors.company import Places, denoiser_spec
from disback_ray.config import Recipe, Teacher
from disback_ray.data.sources import NoData
from disback_ray.errors import CheckpointError
from disback_ray.interruption import Stop
from disback_ray.progress import Watcher
from disback_ray.run_folder import (
    SUMMARY,
    Metrics,
    Summary,
)
from disback_ray.storage import Folder
from disback_ray.teachers.checkpoint import import_teacher
from disback_ray.teachers.training import TeacherPlan


class Stopped(Exception):
    """Somebody asked for a stop, and what there is has been kept."""


@dataclass
class Production:
    """One run: what it plays, where its files lie, who watches, and whether it was asked to stop."""

    recipe: Recipe
    seed: int
    folder: Folder
    places: Places
    summary: Summary
    metrics: Metrics
    watch: Watcher
    stop: Stop

    def save_summary(self) -> None:
        self.folder.write_json(SUMMARY, asdict(self.summary))

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
    """Where the teacher lies, or will once it is trained. One from a file is put there now.

    Raises CheckpointError where the file is missing, damaged, refused or not what the recipe expects; then nothing is written.
    """
    if isinstance(recipe.teacher, Teacher):
        return cache / teacher_name(teacher_plan(recipe))
    asked = recipe.teacher
    try:
        return import_teacher(cache, asked.checkpoint, format=asked.format, scalings=asked.scalings, expected=asked.expects)
    except CheckpointError as error:
        raise CheckpointError(f"teacher.checkpoint: {error}") from None


def teacher_plan(recipe: Recipe) -> TeacherPlan:
    """All that decides a trained teacher's weights; its hash names the folder that runs share."""
    assert isinstance(recipe.teacher, Teacher)
    assert not isinstance(recipe.data, NoData)
    training = recipe.teacher.training
    return TeacherPlan(
        spec=denoiser_spec(recipe), data=recipe.data, steps=training.steps, batch=training.batch,
        optimiser=training.optimiser, ema=training.ema, label_dropout=training.label_dropout,
        noise=training.noise, seed=training.seed,
    )  # fmt: skip


def teacher_name(plan: TeacherPlan) -> str:
    """Such as digits-3f9c1a2b4d5e: the data's kind and a hash of every setting."""
    settings = json.dumps(asdict(plan), sort_keys=True).encode()
    return f"{plan.data.kind}-{hashlib.sha256(settings).hexdigest()[:12]}"
