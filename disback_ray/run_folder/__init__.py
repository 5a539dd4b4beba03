"""A run's folder: whose it is, where its run stands, and what it has measured so far."""

from disback_ray.run_folder.checkpoint import (
    Checkpoint,
    checkpoint_name,
    drop_checkpoints,
    drop_checkpoints_after,
    newest_checkpoint,
    roles_of,
    save_checkpoint,
)
from disback_ray.run_folder.claim import check_teacher, claim, mend
from disback_ray.run_folder.layout import CHECKPOINTS, CONFIG, MANIFEST, METRICS, STAGES, SUMMARY
from disback_ray.run_folder.metrics import LOOKED, Metrics
from disback_ray.run_folder.settings import differences, is_run, placement_of, recipe_of, storage_of, write_config
from disback_ray.run_folder.summary import Summary, read_summary, versions

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "LOOKED",
    "MANIFEST",
    "METRICS",
    "STAGES",
    "SUMMARY",
    "Checkpoint",
    "Metrics",
    "Summary",
    "check_teacher",
    "checkpoint_name",
    "claim",
    "differences",
    "drop_checkpoints",
    "drop_checkpoints_after",
    "is_run",
    "mend",
    "newest_checkpoint",
    "placement_of",
    "read_summary",
    "recipe_of",
    "roles_of",
    "save_checkpoint",
    "storage_of",
    "versions",
    "write_config",
]
