"""A run's folder: whose it is, where its run stands, and what it has measured so far."""

import hashlib
import importlib.metadata
import io
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from disback_ray import limited_yaml
from disback_ray.algorithms import backtracking, degradation
from disback_ray.config import ClusterConfig, Recipe, is_resolved
from disback_ray.config.complaints import shown
from disback_ray.errors import CheckpointError, RunFolderError
from disback_ray.evaluation.looks import SIGMAS
from disback_ray.limited_yaml import NotYaml
from disback_ray.run_lock import LOCK, refuse_if_held
from disback_ray.storage import DAMAGED_ARROW, Folder, only, open_parquet
from disback_ray.summary_check import problem_of
from disback_ray.teachers.saved import is_saved, proof_of

CONFIG, SUMMARY, METRICS, CHECKPOINTS, MANIFEST = "config.yaml", "summary.json", "metrics.parquet", "checkpoints", "manifest.json"
DAMAGED_METRICS = "metrics.damaged.parquet"
STAGES = (backtracking.TRIAL, degradation.STAGE, backtracking.WARM, backtracking.STAGE)
"""In which steps are made, in their order."""
KEPT_RECOVERIES = 100
FLUSH_SECONDS = 5.0
TRAINED = ("fake_loss", "fake_grad_norm", "field_norm", "generator_grad_norm")
MEASURED = ("frechet", "accuracy", "sliced_wasserstein", "energy_distance", "modes", "in_modes")
LOOKED = ("mismatch", "fake_mismatch", "spread", "target_gap", *(f"gap_{sigma:g}" for sigma in SIGMAS))
NUMBERS = ("seconds", *TRAINED, *MEASURED, *LOOKED)
PACKAGES = ("disback-ray", "ray", "torch", "numpy", "pyarrow", "clean-fid", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Checkpoint:
    """A point to go on from: after `step` steps of `stage`. files: {role: proof of its file}.

    gaps: (steps done, how far s_φ then was from the target), which decide when `path.switch: plateau` leaves a node.
    texts: the run's config.yaml and summary.json as they were then.
    """

    folder: Folder
    stage: str
    step: int
    files: dict[str, dict[str, Any]]
    gaps: tuple[tuple[int, float], ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


def mend(folder: Folder, *, say: Callable[[str], None], asked: tuple[Recipe, int] | None = None) -> None:
    """Writes config.yaml and summary.json again as the newest whole checkpoint has them, where they are gone or damaged.

    asked: the recipe and seed that the folder is to hold the run of. A config.yaml that says another one, where the checkpoint's own
    says this one, is damaged: a changed bit may leave it readable.
    Without a checkpoint all stays as it is. Raises RunFolderError where another driver has the folder.
    """
    broken = [name for name, read in ((CONFIG, _config), (SUMMARY, read_summary)) if not _reads(folder, name, read)]
    if asked and CONFIG not in broken and _unlike(_config(folder), *asked):
        broken.insert(0, CONFIG)
    if not broken or not folder.has(CHECKPOINTS):
        return
    found = next((found for stage in reversed(STAGES) if (found := newest_checkpoint(folder, stage))), None)
    if found is None:
        return
    texts = dict(found.texts)
    if CONFIG in broken and _reads(folder, CONFIG, _config) and (not asked or _unlike(_resolved(texts.get(CONFIG, "")), *asked)):
        broken.remove(CONFIG)  # it is another run
    broken = [name for name in broken if name in texts]
    if broken:
        refuse_if_held(folder)
    for name in broken:
        what = "damaged" if folder.has(name) else "gone"
        folder.write(name, texts[name].encode())
        say(f"{folder.uri}/{name} was {what}: it is again as of checkpoint {checkpoint_name(found.stage, found.step)}")


def _reads(folder: Folder, name: str, read: Callable[[Folder], Any]) -> bool:
    try:
        return folder.has(name) and read(folder) is not None
    except CheckpointError:
        return False


def claim(folder: Folder, recipe: Recipe, *, seed: int) -> dict[str, Any] | None:
    """Checks that the folder is free, or holds this very run: then its summary is returned.

    Raises RunFolderError where it is something else's. Writes nothing.
    """
    names = [name for name in folder.names() if name != LOCK]  # a driver may have died before it wrote anything else
    if not names:
        return None
    theirs = _config(folder) if CONFIG in names else None
    if theirs is None and CHECKPOINTS in names:
        raise RunFolderError(
            f"{folder.uri}: {CONFIG}, which says whose run this is, is {'damaged' if CONFIG in names else 'gone'}: "
            "bring it back, or choose another folder with --out"
        )
    if theirs is None:
        raise RunFolderError(f"{folder.uri}: not empty, and no run of disback-ray: choose another folder with --out")
    for key, (old, new) in _unlike(theirs, recipe, seed).items():
        raise RunFolderError(
            f"{folder.uri} belongs to another run ({key}: {shown(old)} there, {shown(new)} here): choose another --out, or --fresh"
        )
    try:
        return read_summary(folder) if SUMMARY in names else {}
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}: bring it back; or delete it, to go on from the newest checkpoint with whatever teacher is there now"
        ) from None


def _unlike(theirs: dict[str, Any] | None, recipe: Recipe, seed: int) -> dict[str, tuple[Any, Any]]:
    """What a config.yaml says otherwise than the recipe and the seed: {key: (there, here)}."""
    found = theirs or {}
    ours = {"recipe": recipe.model_dump(mode="json"), "seed": seed}
    return differences({"recipe": _completed(found.get("recipe")), "seed": found.get("seed")}, ours)


def _completed(recipe: Any) -> Any:
    """A recipe that an older version wrote, with the keys that there are by now: their defaults leave a run what it was."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValueError:  # pydantic's errors are; the keys that differ are named then
        return recipe


def is_run(folder: Folder) -> bool:
    """Whether a run of ours lies there, whichever it is. Raises CheckpointError where that can't be known."""
    return folder.has(CONFIG) and _config(folder) is not None


def check_teacher(folder: Folder, teacher: Folder) -> None:
    """Raises RunFolderError where the folder's run was begun with another teacher, or with other weights of it: a file has changed,
    or a teacher was trained again and is another one, as on GPUs it will be.
    """
    begun = read_summary(folder) if folder.has(SUMMARY) else {}
    found = {"teacher": teacher.name, "teacher_sha256": proof_of(teacher) if is_saved(teacher) else ""}
    for key, now in found.items():
        before = begun.get(key)
        if before and now and before != now:
            raise RunFolderError(
                f"{folder.uri} was begun with another teacher ({before[:24]}… there, {now[:24]}… now): choose another --out, or --fresh"
            )


def _config(folder: Folder) -> dict[str, Any] | None:
    """What write_config() wrote; None where the file is somebody else's: many programs have a config.yaml."""
    return _resolved(folder.read(CONFIG))


def _resolved(text: str | bytes) -> dict[str, Any] | None:
    try:
        found = limited_yaml.load(text)
    except NotYaml:
        return None
    return found if is_resolved(found) else None


def placement_of(folder: Folder) -> str | None:
    """Where the roles of the folder's run play, once that has been chosen."""
    found = ((_config(folder) or {}) if folder.has(CONFIG) else {}).get("cluster", {}).get("placement")
    return found if found in ("actors", "in-process") else None


def recipe_of(folder: Folder) -> Recipe:
    """The recipe that a run was started with. Raises RunFolderError where the folder is no run's."""
    found = _config(folder) if folder.has(CONFIG) else None
    try:
        return Recipe.model_validate((found or {})["recipe"])
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise RunFolderError(f"{folder.uri}: no run of this version of disback-ray: it has no recipe that can be read") from error


def storage_of(folder: Folder) -> str:
    """The storage that a run was started with. Raises RunFolderError where the folder is no run's."""
    found = _config(folder) if folder.has(CONFIG) else None
    if found is None:
        raise RunFolderError(f"{folder.uri}: no run of disback-ray is there")
    return str(found["cluster"]["storage"])


def differences(old: Any, new: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        return found
    return {} if old == new else {where.removeprefix("recipe."): (old, new)}


def write_config(folder: Folder, recipe: Recipe, cluster: ClusterConfig, *, seed: int) -> None:
    """config.yaml: all settings as they were resolved. Its presence marks the folder as a run's."""
    resolved = {
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "cluster": cluster.model_dump(mode="json", by_alias=True),
    }
    folder.write(CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).encode())


def save_checkpoint(
    folder: Folder, stage: str, step: int, files: dict[str, dict[str, Any]], *, gaps: Sequence[tuple[int, float]] = ()
) -> None:
    """Makes the files that the roles have written, and read back, a checkpoint: by its manifest, which has its own SHA-256 in it.

    The manifest has the run's config.yaml and summary.json in it as they are now: see mend().
    """
    texts = {name: folder.read(name).decode("utf-8", "replace") for name in (CONFIG, SUMMARY) if folder.has(name)}
    said = {"stage": stage, "step": step, "files": files, "gaps": [list(gap) for gap in gaps], "texts": texts}
    (folder / CHECKPOINTS / checkpoint_name(stage, step)).write_json(MANIFEST, said | {"sha256": _sum(said)})


def _sum(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def drop_checkpoints(folder: Folder, stage: str, step: int, *, keep: int) -> None:
    """Deletes a stage's oldest checkpoints, so that with the one of this step, which is whole, `keep` are left.

    Later ones are no measure: they were refused when the run went on from before them. Raises CheckpointError.
    """
    checkpoints = folder / CHECKPOINTS
    newest = checkpoint_name(stage, step)
    older = sorted((name for name in checkpoints.names() if name.startswith(f"{stage}-") and name < newest), reverse=True)
    for name in older[keep - 1 :]:
        checkpoints.remove(name)


def drop_checkpoints_after(folder: Folder, stage: str, step: int) -> None:
    """Deletes those of a stage that hold more than so many steps, and those that were not finished. Raises CheckpointError."""
    checkpoints = folder / CHECKPOINTS
    for name in (name for name in checkpoints.names() if name.startswith(f"{stage}-")):
        if name > checkpoint_name(stage, step) or not (checkpoints / name).has(MANIFEST):
            checkpoints.remove(name)


def checkpoint_name(stage: str, step: int) -> str:
    return f"{stage}-{step:08d}"


def newest_checkpoint(
    folder: Folder, stage: str, *, before: int | None = None, refuse: Callable[[str], None] = lambda line: None
) -> Checkpoint | None:
    """The newest whole checkpoint of a stage, of fewer than `before` steps. Damaged ones are passed over; refuse hears why."""
    checkpoints = folder / CHECKPOINTS
    names = [name for name in checkpoints.names() if name.startswith(stage)]
    if before is not None:
        names = [name for name in names if name < checkpoint_name(stage, before)]
    for name in sorted(names, reverse=True):
        try:
            return _whole(checkpoints / name, name)
        except CheckpointError as error:
            refuse(f"checkpoint {name} is refused: {error}")
    return None


def _whole(found: Folder, name: str) -> Checkpoint:
    """Raises CheckpointError where the manifest or a file that it names is not what was written."""
    manifest = found.read_json(MANIFEST)
    try:
        said = {key: value for key, value in manifest.items() if key != "sha256"}
        if _sum(said) != manifest["sha256"] or not manifest["files"]:
            raise CheckpointError(f"{found.uri}/{MANIFEST} is not what was written: its SHA-256 differs from its own")
        if checkpoint_name(manifest["stage"], manifest["step"]) != name:
            raise CheckpointError(f"{found.uri}/{MANIFEST} is of another checkpoint, {manifest['stage']} step {manifest['step']}")
        gaps = tuple((int(done), float(gap)) for done, gap in manifest["gaps"])
        texts = {str(name): str(text) for name, text in manifest.get("texts", {}).items()}
        whole = Checkpoint(found, manifest["stage"], manifest["step"], manifest["files"], gaps, texts)
        for proof in whole.files.values():
            found.verify(proof)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{found.uri}/{MANIFEST} is no manifest ({type(error).__name__})") from None
    return whole


class Metrics:
    """metrics.parquet: one row a step. Rewritten now and then, whole each time, so that it can always be read."""

    schema = pa.schema(
        [("stage", pa.string()), ("step", pa.int64()), ("node", pa.int64()), *((name, pa.float64()) for name in NUMBERS)]
    )

    def __init__(self, folder: Folder, *, may_write: Callable[[], None] = lambda: None) -> None:
        """Goes on from the folder's file, where it has one. may_write: raises where the folder is another driver's by now.

        Raises CheckpointError where the file is damaged.
        """
        self.folder, self.may_write = folder, may_write
        self.rows: list[dict[str, Any]] = []
        self.early: dict[tuple[str, int], dict[str, float]] = {}
        self.flushed = time.monotonic()
        self.cost = 0.0
        if folder.has(METRICS):
            try:
                self.rows = self._read(folder.read(METRICS)).to_pylist()
            except DAMAGED_ARROW as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise CheckpointError(f"{folder.uri}/{METRICS} is damaged: {reason}") from None

    def _read(self, data: bytes) -> pa.Table:
        """The columns that are known, of the types that they have. Raises what DAMAGED_ARROW says."""
        found = open_parquet(io.BytesIO(data), repeated=["stage"])
        if found.metadata.num_rows > len(data):  # the seconds of each row are others
            raise pa.ArrowInvalid(f"{found.metadata.num_rows:,} rows in {len(data):,} bytes")
        there = found.schema_arrow.names
        names = [only(there, name) for name in self.schema.names if name in there]
        if not {"stage", "step", "seconds"} <= set(names):
            raise pa.ArrowInvalid("its columns are not a run's")
        table = found.read(columns=names)
        if not set(table.column("stage").unique().to_pylist()) <= set(STAGES):
            raise pa.ArrowInvalid("its stages are not a run's")
        table = table.cast(pa.schema([self.schema.field(name) for name in table.column_names]))
        if table.column("step").null_count or table.column("seconds").null_count:
            raise pa.ArrowInvalid("rows without a step or a time")
        return table

    @classmethod
    def of_run(cls, folder: Folder, *, say: Callable[[str], None], may_write: Callable[[], None] = lambda: None) -> Self:
        """The same for a run that goes on: a damaged file is set aside, and its rows are missed. What is missed is said."""
        if not folder.has(METRICS) and any(
            (folder / CHECKPOINTS / name).has(MANIFEST) for name in (folder / CHECKPOINTS).names()
        ):
            say(f"{folder.uri}/{METRICS} is gone: the run goes on without its rows")
        try:
            return cls(folder, may_write=may_write)
        except CheckpointError as error:
            folder.write(DAMAGED_METRICS, folder.read(METRICS))
            folder.remove(METRICS)
            say(f"{error}: it is {DAMAGED_METRICS} now, and the run goes on without its rows")
            return cls(folder, may_write=may_write)

    def forget_after(self, stage: str, step: int, *, order: Sequence[str]) -> None:
        """Drops rows of steps that will be made again: those of `stage` after `step`, and of later stages; the rest is put in order."""
        later = order[order.index(stage) + 1 :]
        stay = [row for row in self.rows if row["stage"] not in later and (row["stage"] != stage or row["step"] <= step)]
        self.rows = sorted(stay, key=lambda row: (STAGES.index(row["stage"]), row["step"]))

    @property
    def seconds(self) -> float:
        """How long the run had taken at the last row."""
        return float(max((row["seconds"] for row in self.rows), default=0.0))

    def add(self, row: dict[str, Any]) -> None:
        """Takes a step's numbers; writes when it is time, so that writing takes at most a fiftieth of it."""
        self.rows.append(row | self.early.pop((row["stage"], row["step"]), {}))
        if time.monotonic() - self.flushed > max(FLUSH_SECONDS, 50 * self.cost):
            self.flush()

    def amend(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        """Adds what was measured after a step to its row, be it there already or not."""
        for row in reversed(self.rows):
            if row["stage"] == stage and row["step"] == step:
                row.update(numbers)
                return
        self.early.setdefault((stage, step), {}).update(numbers)

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, schema=self.schema)

    def flush(self) -> None:
        """Raises CheckpointError, and what may_write raises."""
        self.may_write()
        start = time.monotonic()
        sink = io.BytesIO()
        pq.write_table(self.table(), sink, write_page_checksum=True)
        self.folder.write(METRICS, sink.getvalue())
        self.flushed = time.monotonic()
        self.cost = self.flushed - start


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what is computed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # shipped by Ray to a machine where it isn't installed
            continue
    return found


@dataclass
class Summary:
    """summary.json, as it grows. teacher: its folder in the cache; stages: seconds; error: the line that ended a failed run.

    teacher_sha256: of the weights that the run is made with; empty until they are there.
    skipped: steps that changed nothing, for NaN or Inf, with the keys of their samples.
    losses: of roles that were made good; recoveries: how, the last hundred of them. devices: how busy each was while backtracking.
    trial: of `path: auto`: its steps, how far the samples were from the teacher's at first and at each look (`apart`), and whether the
    path was recorded then; `warm`: the same of the steps from the path's end to the teacher, and whether they were kept.
    measured_by: of a run on images, what made its Fréchet distances.
    bounds: mismatch and spread of real data (without data, of the teacher's samples); alarms, verdict: see evaluation/.
    """

    recipe: str
    seed: int
    status: str = "running"
    teacher: str = ""
    teacher_sha256: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    measured_by: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    verdict: str = ""
    switches: list[dict[str, int]] = field(default_factory=list)
    trial: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    digest: str = ""
    versions: dict[str, str] = field(default_factory=versions)
    pictures: list[dict[str, str]] = field(default_factory=list)
    devices: dict[str, Any] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    losses: int = 0
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def recovered(self, event: dict[str, Any]) -> None:
        self.losses += len(event["roles"])
        self.recoveries = [*self.recoveries, event][-KEPT_RECOVERIES:]

    def picture(self, file: str, title: str) -> None:
        """Notes a picture once, in the order in which pictures were first made."""
        if all(known["file"] != file for known in self.pictures):
            self.pictures.append({"file": file, "title": title})


def read_summary(folder: Folder) -> dict[str, Any]:
    """A run's summary.json. Raises CheckpointError where it is missing, damaged, or JSON of something else."""
    found = folder.read_json(SUMMARY)
    if problem := problem_of(found):
        raise CheckpointError(f"{folder.uri}/{SUMMARY} is damaged: {problem}")
    whole: dict[str, Any] = found
    return whole
