"""The page: place the cast → teacher → record → backtrack → evaluate → save."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal

from disback_ray.actors.parts import Places, denoiser_spec
from disback_ray.config import ClusterConfig, Recipe, Teacher, check_agreement, load_cluster, load_recipe, resolved
from disback_ray.data.prepared import left_out
from disback_ray.data.sources import ImagesData
from disback_ray.errors import ConfigError, DeviceMemoryError, DisbackError, NonFiniteError, RunFolderError
from disback_ray.interruption import Stop, interruptible
from disback_ray.nonfinite import write_keys
from disback_ray.one_teacher import train_once
from disback_ray.production import (
    Production,
    Stopped,
    check_networks,
    check_reference,
    modules_of,
    student_folder,
    teacher_folder,
    teacher_plan,
)
from disback_ray.progress import OnConsole, Silent, Watcher
from disback_ray.rehearsal import Crew, backtrack, evaluate, look_at_the_start, record, try_warm, try_without
from disback_ray.report import render
from disback_ray.result import RunResult
from disback_ray.run_folder import (
    CONFIG,
    SUMMARY,
    Metrics,
    Summary,
    check_teacher,
    claim,
    is_run,
    mend,
    placement_of,
    read_summary,
    versions,
    write_config,
)
from disback_ray.run_lock import LOCK, locked, refuse_if_held
from disback_ray.storage import Folder
from disback_ray.teachers.saved import is_saved, load_spec, proof_of
from disback_ray.teachers.saved_generator import SETTINGS
from disback_ray.teachers.text_teacher import is_encoded, text_network
from disback_ray.theatre import theatre
from disback_ray.tiny import tiny_change, tiny_overrides
from disback_ray.trial import choose

DEFAULT_RECIPE = "digits"
CACHE, DATA = "teachers", "data"


def run(
    recipe: str | Path | None = None,
    *,
    cluster: str | Path | ClusterConfig | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    in_process: bool = False,
    fresh: bool = False,
    progress: bool = False,
    tiny: bool = False,
    trace: bool = False,
    on_nonfinite: Literal["stop", "skip"] | None = None,
    all_looks: bool = False,
) -> RunResult:
    """Distils a recipe's teacher into a one-step generator; goes on where the same run was left.

    recipe: a shipped recipe's name or a YAML file; None takes the cluster file's, else 'digits'. A run's config.yaml brings cluster and
    seed with it. cluster: a shipped name, a YAML file, or settings; None is a private local Ray. out: the run's folder, by default
    the recipe's name in the cluster's storage. seed: 0 where none is given.
    overrides: `key=value`, of the recipe, or of the cluster file with `cluster.` before the key. in_process: no Ray, all roles here.
    fresh: delete what an earlier run left in the folder. progress: show it on the terminal. tiny: the recipe at the size of a test,
    with random weights in place of the teacher's file; `overrides` still count. trace: write trace.json, with each call of each role.
    on_nonfinite: what NaN or Inf in a step does, where it isn't to be what the cluster file says. all_looks: steps wait for an evaluator
    that has no time for a look at images, rather than that it is left out.

    Raises DisbackError (see errors.py) with one line for a user; KeyboardInterrupt once what there is has been kept.
    """
    for key, given in (("recipe", recipe), ("cluster", cluster), ("out", out)):
        if given is not None and not str(given):
            raise ConfigError(f"{key}: empty, maybe a variable that isn't set: leave it out, or say which")
    run_again = resolved(str(recipe)) if recipe is not None else None
    seed = (run_again or {"seed": 0})["seed"] if seed is None else seed
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ConfigError(f"seed: {seed}: expected a whole number of 0 … 2⁶³ - 1")
    mine = [o.removeprefix("cluster.") for o in overrides if o.startswith("cluster.")]
    mine += [f"recovery.on_nonfinite={on_nonfinite}"] if on_nonfinite else []
    places_on = load_cluster(cluster or (str(recipe) if run_again else None), overrides=mine)
    name = recipe or places_on.recipe or DEFAULT_RECIPE
    storage = Folder.at(places_on.storage)
    changes = [o for o in overrides if not o.startswith("cluster.")]
    if tiny:
        changes = [*tiny_overrides(load_recipe(str(name)), storage / CACHE), *map(tiny_change, changes)]
    plan = load_recipe(str(name), overrides=changes)
    check_agreement(plan, places_on)
    folder = Folder.at(out) if out else storage / plan.name
    mended: list[str] = []
    done = _open(folder, plan, seed=seed, fresh=fresh, say=mended.append)
    with OnConsole() if progress else contextlib.nullcontext(Silent()) as watch, interruptible(watch.interject) as stop:
        for line in mended:
            watch.say(line)
        if done is not None:
            watch.say(f"{folder.uri} holds this run, complete: nothing to do (--fresh runs it anew, --out elsewhere)")
            return done
        return _produce(
            plan, places_on, folder, storage,
            seed=seed, in_process=in_process, fresh=fresh, trace=trace, all_looks=all_looks, watch=watch, stop=stop,
        )  # fmt: skip


def _open(folder: Folder, recipe: Recipe, *, seed: int, fresh: bool, say: Callable[[str], None]) -> RunResult | None:
    """The folder's run, where it is this one and complete. Raises RunFolderError where the folder is something else's."""
    mend(folder, say=say, asked=None if fresh else (recipe, seed))
    if fresh:
        if set(folder.names()) - {LOCK} and not is_run(folder):
            raise RunFolderError(f"{folder.uri}: not empty, and no run of disback-ray: --fresh doesn't delete it")
        return None
    found = claim(folder, recipe, seed=seed)
    if not found or found.get("status") != "complete":
        return None
    if not (folder / "generator").has(SETTINGS):
        raise RunFolderError(f"{folder.uri}: the run is complete, and its generator/ is gone: --fresh runs it anew")
    return RunResult(folder, found, trust_modules=True)


def _produce(
    recipe: Recipe, cluster: ClusterConfig, folder: Folder, storage: Folder,
    *, seed: int, in_process: bool, fresh: bool, trace: bool, all_looks: bool, watch: Watcher, stop: Stop,
) -> RunResult:  # fmt: skip
    """All stages. Whatever ends them early, what there is stays in the folder, with a summary and a report of it."""
    cache, written = storage / CACHE, recipe
    places = None if isinstance(recipe.data, ImagesData) else _places(recipe, folder, cache, fresh=fresh)
    refuse_if_held(folder)
    if cluster.placement == "auto" and not in_process:
        kept = None if fresh else placement_of(folder)
        cluster = _placed(recipe, cluster, storage, places, seed=seed, kept=kept, watch=watch)
    in_process = in_process or cluster.placement == "in-process"
    cluster = cluster.model_copy(update={"placement": "in-process"}) if in_process else cluster
    modules = modules_of(recipe, places.teacher if places else None)
    with (
        theatre(cluster, in_process=in_process, watch=watch, modules=modules) as stage,
        contextlib.ExitStack() as held,
    ):
        stop.listen()
        if isinstance(recipe.data, ImagesData):
            recipe = recipe.model_copy(update={"data": (images := stage.prepare(recipe.data, storage / DATA))})
            if said := left_out(images):
                watch.say(said)
        places = places or _places(recipe, folder, cache, fresh=fresh)
        network = text_network(places.teacher)
        silent, trains = network is not None and not is_encoded(network), not is_saved(places.teacher)
        stage.check(first="teacher_trainer" if trains else "prompt_encoder" if silent else None)
        spec = denoiser_spec(recipe) if trains else load_spec(places.teacher)
        check_reference(recipe, spec, here=in_process or cluster.address == "local")
        stage.refuse_unfit(recipe, spec)
        lock = held.enter_context(locked(folder))
        if fresh:
            folder.clear()
            lock.renew()
        folder.tidy()
        write_config(folder, written, cluster, seed=seed)
        summary = _summary(folder, recipe, seed)
        metrics = Metrics.of_run(folder, say=watch.say, may_write=lock.require)
        production = Production(
            recipe,
            seed,
            folder,
            places,
            summary,
            metrics,
            watch,
            stop,
            lock,
            keep=cluster.checkpoints.keep,
            trace=trace,
            skips=cluster.recovery.on_nonfinite == "skip",
            all_looks=all_looks,
        )
        production.summary.teacher = places.teacher.name
        production.save_summary()
        try:
            with production.stage("teacher"):
                if isinstance(recipe.teacher, Teacher) and trains:
                    watch.stage("training the teacher", steps=recipe.teacher.training.steps)
                    with stop.at_a_good_moment():
                        train_once(
                            lambda: stage.train_teacher(teacher_plan(recipe), places.teacher, stop=stop),
                            places.teacher, watch=watch, stop=stop,
                        )  # fmt: skip
            check_teacher(folder, places.teacher)
            summary.teacher_sha256 = proof_of(places.teacher)
            if network is not None and silent:
                with production.stage("prompts"):
                    watch.stage("loading the text encoders")
                    stage.encode_prompts(production, network)
            with production.stage("casting"):
                crew = Crew.of(production, stage.cast(production))
                production.save_summary()  # where each role runs
            with production.stage("measuring"):
                look_at_the_start(crew)
            if recipe.path != "fixed":
                with production.stage("trial"):
                    try_without(crew)
            with production.stage("recording"):
                record(crew)
            if recipe.path != "fixed":
                with production.stage("warm"):
                    try_warm(crew)
            with production.stage("backtracking"):
                backtrack(crew)
            with production.stage("evaluation"):
                evaluate(crew)
            production.summary.status = "complete"
        except (Stopped, KeyboardInterrupt):
            production.summary.status = "interrupted"
            watch.say(f"stopped; what is done is kept in {folder.uri}: run the same command again to go on")
            raise KeyboardInterrupt from None
        except DisbackError as error:
            if isinstance(error, NonFiniteError):
                write_keys(folder, error)
            if isinstance(error, DeviceMemoryError):
                from disback_ray.planning.shortfall import with_plan  # what no other run needs

                error = with_plan(error, recipe, cluster, load_spec(places.teacher))
            production.summary.status, production.summary.error = "failed", str(error)
            raise error from None
        finally:
            if production.summary.status == "running":
                production.summary.status = "failed"
            if not lock.is_lost():
                production.metrics.flush()
                try:
                    _report(production)
                finally:  # last: by it the run is complete, and whoever is killed before goes on and writes the report again
                    production.save_summary()
    return RunResult(folder, read_summary(folder), trust_modules=True)


def _placed(
    recipe: Recipe, cluster: ClusterConfig, storage: Folder, places: Places | None,
    *, seed: int, kept: str | None, watch: Watcher,
) -> ClusterConfig:  # fmt: skip
    """The cluster file with `placement: auto` resolved: as the run has had it before (kept), or by a trial."""
    if kept:
        chosen, why = kept, "as this run began"
    else:
        watch.stage("trying placements")
        chosen, why = choose(recipe, cluster, places, storage, seed=seed)
    watch.say(f"placement: {chosen}: {why}")
    return cluster.model_copy(update={"placement": chosen})


def _places(recipe: Recipe, folder: Folder, cache: Folder, *, fresh: bool) -> Places:
    """Where all lies, once the teacher and the networks are known to fit. Raises ConfigError, CheckpointError, RunFolderError."""
    teacher = teacher_folder(recipe, cache)
    places = Places(teacher, folder, cache, student_folder(recipe, cache, teacher))
    check_networks(recipe, places.teacher)
    if not fresh:
        check_teacher(folder, places.teacher)
    return places


def _summary(folder: Folder, recipe: Recipe, seed: int) -> Summary:
    """The summary that an earlier part of this run left, or a new one."""
    if not folder.has(SUMMARY):
        return Summary(recipe.name, seed)
    left = read_summary(folder)
    known = {field.name: left[field.name] for field in fields(Summary) if field.name in left}
    return Summary(**(known | {"status": "running", "error": None, "versions": versions()}))


def _report(production: Production) -> None:
    folder, summary = production.folder, production.summary
    files = [picture["file"] for picture in summary.pictures]
    pictures = {file: folder.read(file) for file in files if folder.has(file)}  # the page says which are missing
    page = render(asdict(summary), folder.read(CONFIG).decode(), production.metrics.table(), pictures)
    folder.write("report.html", page.encode())
