"""How long the roles were busy in a step of an earlier run, where the storage holds one like the planned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from disback_ray import limited_yaml
from disback_ray.config import ClusterConfig, Recipe
from disback_ray.errors import CheckpointError, DisbackError
from disback_ray.limited_yaml import NotYaml
from disback_ray.run_folder import CONFIG, SUMMARY, read_summary
from disback_ray.storage import Folder

LEAST_STEPS = 5
"""Of so many at least: the first ones are slower."""
TIMED = {
    "recipe": ("data", "student", "batch", "micro_batches", "fake_score", "precision", "wire_dtype"),
    "recipe.backtracking": ("fake_updates", "fuse_forward"),
    "recipe.teacher": ("network", "checkpoint", "module", "guidance"),
}
"""The settings that decide how long a step takes. A cluster's are compared role by role."""


@dataclass(frozen=True)
class Measured:
    """run: its folder; seconds: of one step, of each role that played, over all of its devices together."""

    run: str
    steps: int
    seconds: Mapping[str, float]


def earlier(storage: str, recipe: Recipe, cluster: ClusterConfig) -> Measured | None:
    """The run with the most steps of those that computed the same on the same devices; None where there is none, or no such storage."""
    ours = {"recipe": recipe.model_dump(mode="json"), "cluster": cluster.model_dump(mode="json", by_alias=True)}
    try:
        names = (there := Folder.at(storage)).names()
    except DisbackError:
        return None  # a plan may be made before there is any, and where it can't be reached from
    found = [like for name in names if (like := _read(there / name, ours)) is not None]
    return max(found, key=lambda run: run.steps, default=None)


def _read(folder: Folder, ours: dict[str, Any]) -> Measured | None:
    try:
        if not (folder.has(CONFIG) and folder.has(SUMMARY)):
            return None
        theirs, devices = limited_yaml.load(folder.read(CONFIG)), read_summary(folder).get("devices") or {}
    except (CheckpointError, NotYaml):
        return None  # somebody else's, or half written
    if devices.get("steps", 0) < LEAST_STEPS or not isinstance(theirs, dict) or timed(theirs) != timed(ours):
        return None
    seconds: dict[str, float] = {}
    for seat, calls in devices["calls"].items():
        role = seat.partition("/")[0]
        spent = sum(call["seconds"] for call in calls.values())
        seconds[role] = seconds.get(role, 0.0) + spent / devices["steps"]
    return Measured(folder.uri, devices["steps"], seconds)


def timed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide how long a role's calls take."""
    found: dict[str, Any] = {}
    for path, keys in TIMED.items():
        block: Any = settings
        for part in path.split("."):
            block = (block or {}).get(part)
        found |= {f"{path}.{key}": (block or {}).get(key) for key in keys}
    roles = (settings.get("cluster") or {}).get("roles") or {}
    for name, asked in roles.items():
        found |= {f"{name}.{key}": asked.get(key) for key in ("gpus", "cpus", "accelerator", "with")}
    return found
