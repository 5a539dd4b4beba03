"""The page of `disback-ray teacher train`: read the images → train → a folder that recipes, `sample` and `inspect` take."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from disback_ray.config import ClusterConfig, load_cluster, parse
from disback_ray.config.teacher_job import TeacherJob, multipliers_for
from disback_ray.data.prepared import PreparedImages, class_names, left_out, skipped
from disback_ray.errors import ConfigError, DisbackError, RunFolderError
from disback_ray.interruption import Stop, interruptible
from disback_ray.networks.spec import DenoiserSpec
from disback_ray.pictures import image_grid
from disback_ray.production import Stopped
from disback_ray.progress import OnConsole, Silent, Watcher
from disback_ray.run_folder import differences, versions
from disback_ray.run_lock import LOCK, locked
from disback_ray.storage import Folder
from disback_ray.teachers.saved import TRAINING, is_saved
from disback_ray.teachers.training import UNFINISHED, Looks, TeacherPlan
from disback_ray.theatre import Theatre, theatre

DATA = "data"
KEPT_LOSSES = 500


@dataclass(frozen=True)
class TrainedTeacher:
    """folder: with denoiser.json and model.safetensors; summary: teacher.json."""

    folder: Folder
    summary: dict[str, Any]


def settings_for(data: str | Path, resolution: int, *, conditional: bool = False, **options: Any) -> dict[str, Any]:
    """A TeacherJob as its YAML would be, from the command line's options; --set and overrides go over it.

    Where nothing is said, EDM's network for that resolution (Karras et al. 2022, Table 7) and its rate for FFHQ, for a GPU of 24 GB.
    """
    given = {key: value for key, value in options.items() if value is not None}
    training = {"steps": given.pop("steps", 100_000), "batch": given.pop("batch", 128), "ema": given.pop("ema", 0.9999)}
    training |= {"label_dropout": given.pop("label_dropout", 0.0), "seed": given.pop("seed", 0)}
    training |= {"optimiser": {"lr": given.pop("lr", 2e-4)}}
    network = {"kind": "ddpmpp", "channels": given.pop("channels", 128), "multipliers": multipliers_for(resolution)}
    network |= {"blocks": given.pop("blocks", 4), "attention": [16] if resolution > 16 else []}
    images: dict[str, Any] = {key: given.pop(key) for key in ("grey", "skip_corrupt") if key in given}
    images |= {"path": str(data), "resolution": resolution, "conditional": conditional}
    return {"data": images, "teacher": {"network": network, "training": training}, **given}


def train_teacher(
    data: str | Path,
    *,
    resolution: int,
    out: str | Path | None = None,
    cluster: str | Path | ClusterConfig | None = None,
    workers: int | None = None,
    overrides: Sequence[str] = (),
    in_process: bool = False,
    fresh: bool = False,
    progress: bool = False,
    **options: Any,
) -> TrainedTeacher:
    """Trains an EDM teacher on a folder, a zip or a parquet file of images; goes on where the same training was left.

    out: its folder, by default named by data and resolution in the cluster's storage. workers: of Ray Train. overrides: `key=value` of
    a TeacherJob, or of the cluster file with `cluster.` before the key. options: steps, batch, lr, ema, channels, blocks, conditional,
    label_dropout, grey, skip_corrupt, seed, pictures, pictures_every.

    Raises DisbackError (see errors.py) with one line for a user; KeyboardInterrupt once what there is has been kept.
    """
    for key, given in (("data", data), ("out", out), ("cluster", cluster)):
        if given is not None and not str(given):
            raise ConfigError(f"{key}: empty, maybe a variable that isn't set: say which")
    mine = [o.removeprefix("cluster.") for o in overrides if o.startswith("cluster.")]
    mine += [f"roles.teacher_trainer.replicas={workers}"] if workers is not None else []
    places_on = load_cluster(cluster, overrides=mine)
    text = yaml.safe_dump(settings_for(data, resolution, **options))
    changes = [o for o in overrides if not o.startswith("cluster.")]
    job = parse(text, model=TeacherJob, where="teacher train", overrides=changes)
    many, batch = places_on.roles.teacher_trainer.replicas, job.teacher.training.batch
    if many > batch:
        raise ConfigError(f"roles.teacher_trainer.replicas: {many} workers for teacher.training.batch: {batch}")
    storage = Folder.at(places_on.storage)
    folder = Folder.at(out) if out else storage / f"{Path(job.data.path).stem}-{job.data.resolution}"
    kept = _claim(folder, job, fresh=fresh)
    if kept.get("status") == "complete" and is_saved(folder):
        return TrainedTeacher(folder, kept)
    with OnConsole() if progress else contextlib.nullcontext(Silent()) as watch, interruptible() as stop:
        modules = [job.teacher.network.module] if job.teacher.network.kind == "own" else []
        noting = _Noting(watch, kept.get("losses", []), every=max(1, job.teacher.training.steps // KEPT_LOSSES))
        with theatre(places_on, in_process=in_process, watch=noting, modules=modules) as stage:
            stop.listen()
            prepared = stage.prepare(job.data, storage / DATA)
            if kept.get("data") and kept["data"]["sha256"] != prepared.sha256:
                raise RunFolderError(
                    f"{folder.uri} was begun with other images at {job.data.path}: choose another --out, or --fresh"
                )
            _plan(job, prepared).spec.check()
            with locked(folder) as lock:
                if fresh:
                    folder.clear()
                    lock.renew()
                return _teach(job, prepared, folder, kept, stage, noting, stop)


def _teach(
    job: TeacherJob, prepared: PreparedImages, folder: Folder, kept: dict[str, Any], stage: Theatre, watch: "_Noting", stop: Stop
) -> TrainedTeacher:
    """Trains; whatever ends it early, teacher.json says so, and the steps that are done are kept."""
    plan = _plan(job, prepared)
    state = _state(job, prepared, kept) | {"losses": watch.losses}
    began = time.monotonic()
    if said := left_out(prepared):
        watch.say(said)
    shown = prepared.pixels()[np.linspace(0, prepared.count - 1, min(job.pictures, prepared.count)).astype(int)]
    (folder / "samples").write("data.png", image_grid(shown / 127.5 - 1))
    folder.write_json(TRAINING, state)
    looks = Looks(job.pictures_every or max(1, plan.steps // 10), job.pictures, job.teacher.sampling_steps)
    try:
        watch.stage("training the teacher", steps=plan.steps)
        with stop.at_a_good_moment():
            stage.train_teacher(plan, folder, stop=stop, looks=looks)
        state["status"] = "complete"
        if folder.has(UNFINISHED):
            folder.delete(UNFINISHED)
    except (Stopped, KeyboardInterrupt):
        state["status"] = "interrupted"
        watch.say(f"stopped; what is done is kept in {folder.uri}: run the same command again to go on")
        raise KeyboardInterrupt from None
    except DisbackError as error:
        state["status"], state["error"] = "failed", str(error)
        raise
    finally:
        state["seconds"] = round(state["seconds"] + time.monotonic() - began, 1)
        folder.write_json(TRAINING, state)
    return TrainedTeacher(folder, state)


class _Noting:
    """A watcher that also keeps the losses, a few hundred of them."""

    def __init__(self, watch: Watcher, losses: list[list[float]], *, every: int) -> None:
        self.watch = watch
        self.losses = losses
        self.every = every

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        self.watch.stage(name, steps=steps, start=start)

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        self.watch.step(done, node=node, numbers=numbers)
        if "loss" in numbers and (not self.losses or done >= self.losses[-1][0] + self.every):
            self.losses.append([done, numbers["loss"]])

    def say(self, text: str) -> None:
        self.watch.say(text)

    def interject(self, text: str) -> None:
        self.watch.interject(text)


def _claim(folder: Folder, job: TeacherJob, *, fresh: bool) -> dict[str, Any]:
    """teacher.json of this very training, or nothing. Raises RunFolderError where the folder is something else's."""
    if not set(folder.names()) - {LOCK}:
        return {}
    if not folder.has(TRAINING):
        raise RunFolderError(f"{folder.uri}: not empty, and no teacher's: choose another folder with --out")
    if fresh:
        return {}
    kept: dict[str, Any] = folder.read_json(TRAINING)
    for key, (old, new) in differences(kept.get("settings"), job.model_dump(mode="json")).items():
        raise RunFolderError(
            f"{folder.uri} holds another teacher ({key}: {old!r} there, {new!r} here): choose another --out, or --fresh"
        )
    return kept


def _plan(job: TeacherJob, prepared: PreparedImages) -> TeacherPlan:
    training = job.teacher.training
    spec = DenoiserSpec(job.teacher.network, prepared.shape, prepared.classes, job.teacher.sigma_data)
    return TeacherPlan(
        spec=spec, data=prepared, steps=training.steps, batch=training.batch, optimiser=training.optimiser,
        ema=training.ema, label_dropout=training.label_dropout, noise=training.noise, seed=training.seed,
    )  # fmt: skip


def _state(job: TeacherJob, prepared: PreparedImages, kept: dict[str, Any]) -> dict[str, Any]:
    data = {"sha256": prepared.sha256, "count": prepared.count, "classes": class_names(prepared), "corrupt": skipped(prepared)}
    return {
        "settings": job.model_dump(mode="json"),
        "data": data,
        "status": "running",
        "error": None,
        "seconds": kept.get("seconds", 0.0),
        "versions": versions(),
    }
