"""Checkpoints: files of the roles that a manifest has made one, and which of them is the newest whole one."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from disback_ray.algorithms import degradation
from disback_ray.errors import CheckpointError
from disback_ray.run_folder.layout import CHECKPOINTS, CONFIG, MANIFEST, SUMMARY
from disback_ray.storage import Folder


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


def roles_of(stage: str) -> tuple[str, ...]:
    """Whose weights a checkpoint of the stage holds: Algorithm 1 changes those of s_φ's role alone."""
    return ("fake_score",) if stage == degradation.STAGE else ("fake_score", "generator")


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
        if _sum(said) != manifest["sha256"]:
            raise CheckpointError(f"{found.uri}/{MANIFEST} is not what was written: its SHA-256 differs from its own")
        if checkpoint_name(manifest["stage"], manifest["step"]) != name:
            raise CheckpointError(f"{found.uri}/{MANIFEST} is of another checkpoint, {manifest['stage']} step {manifest['step']}")
        if set(manifest["files"]) != set(roles_of(manifest["stage"])):
            raise CheckpointError(
                f"{found.uri}/{MANIFEST} names files of other roles than {' and '.join(roles_of(manifest['stage']))}"
            )
        gaps = tuple((int(done), float(gap)) for done, gap in manifest["gaps"])
        texts = {str(name): str(text) for name, text in manifest.get("texts", {}).items()}
        whole = Checkpoint(found, manifest["stage"], manifest["step"], manifest["files"], gaps, texts)
        for proof in whole.files.values():
            found.verify(proof)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{found.uri}/{MANIFEST} is no manifest ({type(error).__name__})") from None
    return whole
