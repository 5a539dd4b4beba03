"""config.yaml: the run that a folder is of, with all its settings as they were resolved."""

from typing import Any

import yaml

from disback_ray import limited_yaml
from disback_ray.config import ClusterConfig, Recipe, is_resolved
from disback_ray.errors import RunFolderError
from disback_ray.limited_yaml import NotYaml
from disback_ray.run_folder.layout import CONFIG
from disback_ray.storage import Folder


def config_of(folder: Folder) -> dict[str, Any] | None:
    """What write_config() wrote; None where the file is somebody else's: many programs have a config.yaml."""
    return resolved_config(folder.read(CONFIG))


def resolved_config(text: str | bytes) -> dict[str, Any] | None:
    try:
        found = limited_yaml.load(text)
    except NotYaml:
        return None
    return found if is_resolved(found) else None


def placement_of(folder: Folder) -> str | None:
    """Where the roles of the folder's run play, once that has been chosen."""
    found = ((config_of(folder) or {}) if folder.has(CONFIG) else {}).get("cluster", {}).get("placement")
    return found if found in ("actors", "in-process") else None


def recipe_of(folder: Folder) -> Recipe:
    """The recipe that a run was started with. Raises RunFolderError where the folder is no run's."""
    found = config_of(folder) if folder.has(CONFIG) else None
    try:
        return Recipe.model_validate((found or {})["recipe"])
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise RunFolderError(f"{folder.uri}: no run of this version of disback-ray: it has no recipe that can be read") from error


def storage_of(folder: Folder) -> str:
    """The storage that a run was started with. Raises RunFolderError where the folder is no run's."""
    found = config_of(folder) if folder.has(CONFIG) else None
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


def is_run(folder: Folder) -> bool:
    """Whether a run of ours lies there, whichever it is. Raises CheckpointError where that can't be known."""
    return folder.has(CONFIG) and config_of(folder) is not None
