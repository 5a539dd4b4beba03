"""summary.json: where a run stands, and what it has come to."""

import importlib.metadata
import platform
from dataclasses import dataclass, field
from typing import Any

from disback_ray.errors import CheckpointError
from disback_ray.run_folder.layout import SUMMARY
from disback_ray.run_folder.summary_check import problem_of
from disback_ray.storage import Folder

KEPT_RECOVERIES = 100
PACKAGES = ("disback-ray", "ray", "torch", "numpy", "pyarrow", "clean-fid", "scipy", "scikit-learn")


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
