"""Whose folder it is, and what of it can be written again where it is gone or damaged."""

from collections.abc import Callable
from typing import Any

from disback_ray.config import Recipe
from disback_ray.config.complaints import shown
from disback_ray.errors import CheckpointError, RunFolderError
from disback_ray.run_folder.checkpoint import checkpoint_name, newest_checkpoint
from disback_ray.run_folder.layout import CHECKPOINTS, CONFIG, STAGES, SUMMARY
from disback_ray.run_folder.settings import config_of, differences, resolved_config
from disback_ray.run_folder.summary import read_summary
from disback_ray.run_lock import LOCK, refuse_if_held
from disback_ray.storage import Folder
from disback_ray.teachers.saved import is_saved, proof_of


def mend(folder: Folder, *, say: Callable[[str], None], asked: tuple[Recipe, int] | None = None) -> None:
    """Writes config.yaml and summary.json again as the newest whole checkpoint has them, where they are gone or damaged.

    asked: the recipe and seed that the folder is to hold the run of. A config.yaml that says another one, where the checkpoint's own
    says this one, is damaged: a changed bit may leave it readable.
    Without a checkpoint all stays as it is. Raises RunFolderError where another driver has the folder.
    """
    broken = [name for name, read in ((CONFIG, config_of), (SUMMARY, read_summary)) if not _reads(folder, name, read)]
    if asked and CONFIG not in broken and _unlike(config_of(folder), *asked):
        broken.insert(0, CONFIG)
    if not broken or not folder.has(CHECKPOINTS):
        return
    found = next((found for stage in reversed(STAGES) if (found := newest_checkpoint(folder, stage))), None)
    if found is None:
        return
    texts = dict(found.texts)
    if (
        CONFIG in broken
        and _reads(folder, CONFIG, config_of)
        and (not asked or _unlike(resolved_config(texts.get(CONFIG, "")), *asked))
    ):
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
    theirs = config_of(folder) if CONFIG in names else None
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
